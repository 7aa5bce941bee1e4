"""`understudy dead-letters`: on a store's file, without and with a service."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest

from understudy.cli.main import main
from understudy.supervisors.delivery.record import DeadLetter, new_id
from understudy.supervisors.delivery.store_file import StoreFile

from .conftest import Shop

Capture = pytest.CaptureFixture[str]
LETTER = DeadLetter(
    id="",
    at=0.0,
    kind="event",
    pattern="paid",
    handler="Till.paid",
    actor="shop/till",
    incarnation=1,
    transport="tcp",
    source="127.0.0.1",
    message_id="m-1",
    correlation_id=None,
    headers={"authorization": "Bearer secret"},
    body=b"7",
    attempts=5,
    reason="crashed",
    error="ValueError: boom",
    traceback="",
    first_at=0.0,
)


@pytest.fixture
def store(folder: Path) -> Iterator[StoreFile]:
    """The store at the default path."""
    with StoreFile(folder / "dead-letters.sqlite", create=True) as file:
        yield file


@pytest.fixture
def letter(store: StoreFile) -> Callable[..., str]:
    """Stores a letter and returns its id."""
    random, times = Random(7), iter(range(1_750_000_000, 1_760_000_000))

    def put(**changes: Any) -> str:
        at = float(next(times))
        stored = attrs.evolve(LETTER, id=new_id(at, random), at=at, **changes)
        store.write([stored])
        return stored.id

    return put


def _run(*arguments: str) -> int:
    return main(["dead-letters", *arguments])


def test_list_shows_one_line_for_each_oldest_first(
    letter: Callable[..., str], capsys: Capture
) -> None:
    ids = [letter() for _ in range(3)]

    assert _run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ids
    assert lines[0].endswith("event paid -> Till.paid  crashed after 5 attempts: ValueError: boom")


def test_list_as_json_masks_secrets(letter: Callable[..., str], capsys: Capture) -> None:
    id = letter()

    assert _run("list", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["headers"]) == (id, {"authorization": "***"})


def test_list_goes_over_all_pages(letter: Callable[..., str], capsys: Capture) -> None:
    for _ in range(450):
        letter()

    assert _run("list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 450


def test_list_shows_only_a_status(letter: Callable[..., str], capsys: Capture) -> None:
    letter()
    given_up = letter(status="discarded")

    assert _run("list", "--status", "discarded") == 0
    assert capsys.readouterr().out.split()[0] == given_up


def test_an_empty_store_says_so(store: StoreFile, capsys: Capture) -> None:
    assert _run("list", "--status", "dead") == 0

    assert capsys.readouterr().out == f"{store.path}: no dead letters with the status dead.\n"


def test_show_tells_everything_but_secrets(letter: Callable[..., str], capsys: Capture) -> None:
    id = letter()

    assert _run("show", id) == 0
    out = capsys.readouterr().out
    assert f"id           {id}\n" in out
    assert "authorization: ***\n" in out


def test_replay_marks_and_says_who_delivers(
    letter: Callable[..., str], store: StoreFile, capsys: Capture
) -> None:
    id, other = letter(), letter()

    assert _run("replay", id) == 0
    out = capsys.readouterr().out
    assert out == "1 dead letter marked for replay; a running service delivers what is marked.\n"
    assert [_status(store, each) for each in (id, other)] == ["replay-asked", "dead"]


def test_replay_all_takes_what_is_dead_and_has_a_payload(
    letter: Callable[..., str], store: StoreFile
) -> None:
    ids = [letter(), letter(body=None), letter(status="replayed"), letter()]

    assert _run("replay", "--all") == 0
    statuses = [_status(store, id) for id in ids]
    assert statuses == ["replay-asked", "dead", "replayed", "replay-asked"]


@pytest.mark.parametrize("command", ["show", "replay", "discard"])
def test_an_unknown_id_is_1_and_nothing_is_done(
    letter: Callable[..., str], store: StoreFile, capsys: Capture, command: str
) -> None:
    ids = ["unknown"] if command == "show" else [letter(), "unknown"]

    assert _run(command, *ids) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"understudy: {store.path} has no dead letter 'unknown'. ")
    assert "`dead-letters list` shows the ids.\n" in err
    assert all(found.status == "dead" for found in store.find())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "replayed"}, "is replayed; only a dead one can be replayed."),
        ({"body": None}, "was kept without its payload, so it cannot be replayed."),
    ],
    ids=["replayed", "without payload"],
)
def test_what_cannot_be_replayed_is_refused(
    letter: Callable[..., str], capsys: Capture, changes: dict[str, Any], reason: str
) -> None:
    id = letter(**changes)

    assert _run("replay", id) == 1
    assert capsys.readouterr().err == f"understudy: {id} {reason}\n"


@pytest.mark.parametrize(
    ("replayed", "note", "code"),
    [(True, "handled", 0), (False, "crashed after 5 attempts", 1)],
    ids=["handled", "dead again"],
)
def test_a_replay_can_be_waited_for(
    letter: Callable[..., str],
    store: StoreFile,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    replayed: bool,
    note: str,
    code: int,
) -> None:
    def service(pause: float) -> None:
        for taken in store.take_replays():
            store.finish_replay(taken.id, replayed=replayed, note=note)

    monkeypatch.setattr("time.sleep", service)
    id = letter()

    assert _run("replay", id, "--wait", "5") == code
    status = "replayed" if replayed else "dead"
    assert capsys.readouterr().out.splitlines()[1] == f"{id}  {status}: {note}"


def test_waiting_for_a_service_that_does_not_run_ends(
    letter: Callable[..., str], store: StoreFile, capsys: Capture
) -> None:
    assert _run("replay", letter(), "--wait", "0") == 1

    assert capsys.readouterr().err == (
        "understudy: 1 dead letter not delivered within 0 s; is a service running that keeps "
        f"its dead letters in {store.path}.\n"
    )


def test_discard_gives_up_and_notes_why(letter: Callable[..., str], store: StoreFile) -> None:
    id = letter()

    assert _run("discard", id, "--note", "a test") == 0
    found = store.get(id)
    assert found is not None
    assert (found.status, found.note) == ("discarded", "a test")


def test_what_has_been_replayed_cannot_be_discarded(
    letter: Callable[..., str], capsys: Capture
) -> None:
    id = letter(status="replayed")

    assert _run("discard", id) == 1
    assert capsys.readouterr().err == f"understudy: {id} is replayed and cannot be discarded.\n"


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("nowhere.sqlite", 78, "there is no dead-letter store here. Check the path."),
        ("shop.py", 78, "not a dead-letter store"),
    ],
    ids=["no file", "another file"],
)
def test_a_path_without_a_store_is_refused(
    folder: Path, capsys: Capture, path: str, code: int, message: str
) -> None:
    assert _run("list", "--store", path) == code

    assert f"{folder / path}: {message}" in capsys.readouterr().err


def test_the_store_may_be_named_by_the_environment(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_DEAD_LETTERS", "elsewhere.sqlite")

    assert _run("list") == 78
    assert f"{folder / 'elsewhere.sqlite'}: there is no" in capsys.readouterr().err


def test_a_service_replays_what_the_command_line_marked(shop: Shop, capsys: Capture) -> None:
    assert main(["emit", shop.url, "paid", "7"]) == 0
    id = shop.logged("paid became dead letter ").split()[0]
    (shop.folder / "open").touch()

    assert _run("replay", id, "--store", str(shop.store), "--wait", "10") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{id}  replayed: handled"


def _status(store: StoreFile, id: str) -> str:
    found = store.get(id)
    assert found is not None
    return found.status
