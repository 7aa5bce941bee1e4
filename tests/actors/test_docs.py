"""The examples of docs/actors.md do what the page says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from understudy import Actor, RpcError, Supervisor, System, child, running
from understudy.testing import isolated

PAGE = Path(__file__).parents[2] / "docs" / "actors.md"
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    module = ModuleType("actors_page")
    sys.modules[module.__name__] = module  # where attrs and typing look names up
    exec(compile(CODE, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


async def test_a_batch_is_handled_as_the_page_says(page: Any, autojump_clock: MockClock) -> None:
    rows: list[Any] = []
    async with isolated(page.Ledger, rows) as ledger:
        for amount in range(3):
            await ledger.event("sold", {"item": "tea", "amount": amount})
        await trio.sleep(0.5)
        assert rows == [page.Sale("tea", amount) for amount in range(3)]
    async with isolated(page.Mailer) as mailer:
        for address in ("a@b", "nobody", "c@slow.example"):
            await mailer.event("mail", address)
        await trio.sleep(2)
        (dead,) = await mailer.dead_letters()
        assert dead.body == b'"nobody"'
        await trio.sleep(40)


def instance_of(system: System, actor: type[Actor]) -> Any:
    return system.registry.find(actor).instance


class Short(Actor[str]):
    """Ends when it is told to."""

    def receive(self, message: str) -> None:
        self.stop()


async def test_accounts_keep_their_moves_in_order(page: Any, clock: MockClock) -> None:
    async with running(Supervisor("bank", [page.accounts])) as bank:
        accounts = bank.ref(page.Accounts)
        for amount in range(5):
            accounts.tell("account.moved", {"account": "a", "amount": amount})
        await wait_all_tasks_blocked()
        assert instance_of(bank, page.Accounts).balance == {"a": 10}


async def test_stock_answers_as_its_tables_say(page: Any, clock: MockClock) -> None:
    async with isolated(page.Stock) as stock:
        assert [await stock.ask("stock.take", "lamp") for _ in range(3)] == [2, 1, 0]
        with pytest.raises(RpcError, match="lamp is sold out"):
            await stock.ask("stock.take", "lamp")
        with pytest.raises(RpcError, match="no 'chair' in stock") as caught:
            await stock.ask("stock.take", "chair")

    assert caught.value.error["status"] == 404


async def test_a_heartbeat_beats_quickens_and_stops(page: Any, clock: MockClock) -> None:
    tree = Supervisor("ward", [child(page.Heartbeat, restart="temporary")])
    async with running(tree) as ward:
        heart = ward.ref(page.Heartbeat)
        await trio.sleep(30.5)
        assert instance_of(ward, page.Heartbeat).beats == 3
        heart.tell("quicker")
        await trio.sleep(3.5)
        assert instance_of(ward, page.Heartbeat).beats == 6
        heart.tell("enough")
        await trio.sleep(6)
        assert not heart.alive


async def test_the_janitor_is_told_who_has_gone(page: Any, clock: MockClock) -> None:
    tree = Supervisor("house", [child(Short, restart="temporary"), child(page.Janitor)])
    async with running(tree) as house:
        short, janitor = house.ref(Short), house.ref(page.Janitor)
        janitor.tell(short)
        await wait_all_tasks_blocked()
        short.tell("now")
        await wait_all_tasks_blocked()
        assert instance_of(house, page.Janitor).gone == ["house/short normal"]


async def test_a_connection_answers_what_it_had_stashed(page: Any, clock: MockClock) -> None:
    answers: list[str] = []
    async with isolated(page.Connection) as connection, trio.open_nursery() as nursery:

        async def ask(text: str) -> None:
            answers.append(await connection.ask(page.Query(text)))

        nursery.start_soon(ask, "early")
        await wait_all_tasks_blocked()
        assert answers == []
        connection.tell("connected")

    assert answers == ["answer to early"]


async def test_a_lobby_answers_both_when_the_second_has_come(page: Any, clock: MockClock) -> None:
    answers: list[list[str]] = []
    async with isolated(page.Lobby) as lobby, trio.open_nursery() as nursery:

        async def enter(name: str) -> None:
            answers.append(await lobby.ask("lobby.enter", name))

        nursery.start_soon(enter, "ann")
        await wait_all_tasks_blocked()
        nursery.start_soon(enter, "bob")

    assert answers == [["ann", "bob"], ["ann", "bob"]]


async def test_a_desk_lets_the_connection_answer(page: Any, clock: MockClock) -> None:
    tree = Supervisor("office", [child(page.Connection), child(page.Desk)])
    async with running(tree) as office:
        office.ref(page.Connection).tell("connected")
        assert await office.ref(page.Desk).ask("desk.ask", "why") == "answer to why"


async def test_sessions_are_children_of_the_actor_that_opened_them(
    page: Any, clock: MockClock
) -> None:
    async with running(Supervisor("site", [child(page.Sessions)])) as site:
        sessions = site.ref(page.Sessions)
        assert await sessions.ask("session.open", "ann") == "site/sessions/ann"
        assert [await sessions.ask("session.count", "ann") for _ in range(2)] == [1, 2]


async def test_an_audit_sees_every_order(page: Any, clock: MockClock) -> None:
    async with isolated(page.Audit) as audit:
        await audit.event("orders.placed.eu", {})
        await wait_all_tasks_blocked()
        assert instance_of(audit.system, page.Audit).seen == ["orders.placed.eu"]
