"""A real browser: calls, streams, what it did not ask for, and origins it forbids itself to forge.

Chromium opens a page that the test serves; the page talks to the bridge and sends what it
saw back to the test.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from examples import chat
from understudy.actors.actor import Actor
from understudy.actors.handlers import message_pattern
from understudy.supervisors.child import child
from understudy.transports.websocket.clients import Clients

from ...missing import missing
from ..serving import serving
from .talk import URL

FLAGS: Final = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)

PAGE: Final = """<!doctype html><link rel="icon" href="data:,"><script>
const tell = (seen) => fetch('/seen', { method: 'POST', body: JSON.stringify(seen) });
const seen = { messages: [] };
const socket = new WebSocket('URL');
const send = (packet) => socket.send(JSON.stringify(packet));
socket.onopen = () => {
  seen.opened = true;
  send({ pattern: 'greet', data: 'é😀', id: 'a' });
  send({ pattern: 'count', data: 3, id: 'b' });
  send({ pattern: 'announce', data: 'news', id: 'c' });
};
socket.onmessage = ({ data }) => {
  seen.messages.push(JSON.parse(data));
  const ended = seen.messages.filter((message) => message.isDisposed).length;
  if (ended === 3 && seen.messages.some((message) => !message.id)) socket.close(1000, 'enough');
};
socket.onclose = ({ code }) => tell({ ...seen, code });
</script>"""


class Greeter(Actor):
    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    @message_pattern("greet")
    def greet(self, name: str) -> str:
        return f"Hello, {name}"

    @message_pattern("count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @message_pattern("announce")
    def announce(self, what: str) -> None:
        self.clients.emit("announced", what)


@asynccontextmanager
async def browsing(page: str, folder: Path) -> AsyncIterator["trio.MemoryReceiveChannel[Any]"]:
    """A browser that opens a page of its own site; what the page sends back."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium is not installed (Debian: apt-get install chromium)")
    saw, seen = trio.open_memory_channel[Any](8)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def site(stream: trio.SocketStream) -> None:
        async with stream:
            asked = body = b""
            async for piece in stream:
                asked += piece
                head, end, body = asked.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if end and len(body) >= int(length or 0):
                    break
            if asked.startswith(b"POST"):
                saw.send_nowait(json.loads(body))
            answer = page.encode() if asked.startswith(b"GET") else b""
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
            )

    command = [program, *FLAGS.split(), f"--user-data-dir={folder}"]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, site, [listener])
            with (folder / "log").open("w") as log:
                browser = await trio.lowlevel.open_process(
                    [*command, f"http://127.0.0.1:{port}/"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                yield seen
            finally:
                # Its own group: a browser is many processes.
                os.killpg(browser.pid, signal.SIGKILL)
                with trio.CancelScope(shield=True):
                    await browser.wait()
            nursery.cancel_scope.cancel()
    finally:
        await listener.aclose()


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"])
async def test_a_page_talks_to_a_service_that_allows_its_origin_and_to_no_other(
    allowed: bool, tmp_path: Path
) -> None:
    clients = Clients()
    options: dict[str, Any] = {"origins": "*"} if allowed else {}
    async with serving(URL, child(Greeter, clients), clients=clients, **options) as service:
        with trio.fail_after(50):
            async with browsing(PAGE.replace("URL", service.url), tmp_path) as pages:
                seen = await pages.receive()
        refused = service.statistics().refused

    if not allowed:
        assert seen == {"messages": [], "code": 1006}
        assert refused == {"origins that may not connect": 1}
        return
    assert (seen["opened"], seen["code"], refused) == (True, 1000, {})
    by_id: dict[str | None, list[Any]] = {}
    for message in seen["messages"]:
        by_id.setdefault(message.pop("id", None), []).append(message)
    assert by_id == {
        "a": [{"response": "Hello, é😀", "isDisposed": True}],
        "b": [{"response": 0}, {"response": 1}, {"response": 2, "isDisposed": True}],
        "c": [{"isDisposed": True}],
        None: [{"pattern": "announced", "data": "news"}],
    }


async def test_the_chat_of_the_examples_shows_what_was_said(tmp_path: Path) -> None:
    clients = Clients()
    page = Path(chat.__file__).with_suffix(".html").read_text()
    talking = """<script>
      const input = document.querySelector('input'), form = document.querySelector('form');
      socket.onopen = () => { input.value = 'Hello <b>'; form.requestSubmit(); };
      new MutationObserver(() => fetch('/seen', { method: 'POST',
        body: JSON.stringify(document.querySelector('li').textContent) })
      ).observe(document.querySelector('ul'), { childList: true });
    </script>"""
    options: dict[str, Any] = {"dialect": "gateway", "origins": "*", "clients": clients}
    async with serving(URL, child(chat.Room, clients), **options) as service:
        page = page.replace("3001", service.url.rpartition(":")[2])
        with trio.fail_after(50):
            async with browsing(page + talking, tmp_path) as pages:
                said = await pages.receive()

    assert said.startswith("127.0.0.1:")
    assert said.endswith(": Hello <b>")
