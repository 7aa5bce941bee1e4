"""`understudy check` and `routes`: trees that never run."""

import json
import sys
from pathlib import Path

import pytest

from understudy.cli.main import main

Capture = pytest.CaptureFixture[str]

_BEGIN = """
from contextlib import asynccontextmanager
from understudy import *

class Plain(Actor):
    pass

class Needy(Actor):
    def __init__(self, *needed): ...

@asynccontextmanager
async def pool_of(url):
    yield url
"""


@pytest.fixture
def module(folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a name of its own; `write` fills it."""
    name = f"tree_{abs(hash(request.node.name))}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def _check(folder: Path, module: str, source: str, *options: str) -> int:
    (folder / f"{module}.py").write_text(_BEGIN + source)
    return main(["check", f"{module}:tree", *options])


FAULTS = {
    "a need that nobody offers": (
        "tree = Supervisor('s', [Supervisor('in', [child(Needy, needs('db'))])])",
        "fault: s/in/needy: needs('db'), but no sibling of it or of a supervisor above it has that "
        "name. There are: in, needy.",
    ),
    "a missing argument": (
        "class A(Actor):\n    def __init__(self, db): ...\ntree = Supervisor('s', [child(A)])",
        "fault: s/a: A.__init__ cannot be called with (): missing a required argument: 'db'. Give "
        "the child what it takes: (db).",
    ),
    "an argument too many": (
        "tree = Supervisor('s', [child(Plain, name='db'), pool(Plain, needs('db'), size=2, "
        "name='p')])",
        "fault: s/p: Plain.__init__ cannot be called with (needs('db')): too many positional "
        "arguments. Give the child what it takes: ().",
    ),
    "a resource's argument": (
        "tree = Supervisor('s', [resource(pool_of, name='db')])",
        "fault: s/db: pool_of cannot be called with (): missing a required argument: 'url'. Give "
        "the child what it takes: (url).",
    ),
    "two handlers of a request": (
        "class A(Actor):\n    @message_pattern('x')\n    async def x(self): ...\n"
        "tree = Supervisor('s', [child(A), Supervisor('in', [child(A)])])",
        "fault: s/in/a: A.x handles requests on 'x', which A.x in s/a does already. Keep one of "
        "them, or give several of one class one address with pool(...).",
    ),
    "a wildcard that nothing reaches": (
        "class A(Actor):\n    @message_pattern('a.*')\n    async def x(self): ...\n"
        "    @message_pattern('a.*.>')\n    async def y(self): ...\n"
        "    @message_pattern('a.>')\n    async def z(self): ...\n"
        "tree = Supervisor('s', [child(A)])",
        "fault: s/a: A.z handles requests on 'a.>', but none reaches it: 'a.*' and 'a.*.>' take "
        "all of them, being more specific. Remove it, or make it another one.",
    ),
    "one of MQTT's kind": (
        "class A(Actor):\n    @message_pattern('a')\n    async def x(self): ...\n"
        "    @message_pattern('a/+/#')\n    async def y(self): ...\n"
        "    @message_pattern('a/#')\n    async def z(self): ...\n"
        "tree = Supervisor('s', [child(A)])",
        "fault: s/a: A.z handles requests on 'a/#', but none reaches it: 'a' and 'a/+/#' take all "
        "of them, being more specific. Remove it, or make it another one.",
    ),
    "a stop that takes too long": (
        "tree = Supervisor('s', [child(Plain, shutdown=60)])",
        "fault: s/plain: may take 60 s to stop, but the whole tree has 30 s to drain, after which "
        "it is cancelled. Give it a smaller shutdown=, or the tree more: run(tree, drain=...), "
        "--drain.",
    ),
    "a member of a pool that takes too long": (
        "tree = Supervisor('s', [pool(Plain, size=2, shutdown=float('inf'))])",
        "fault: s/plain: may take inf s to stop, but the whole tree has 30 s to drain, after which "
        "it is cancelled. Give it a smaller shutdown=, or the tree more: run(tree, drain=...), "
        "--drain.",
    ),
    "a pattern that no topic can be": (
        "class A(Actor):\n    @event_pattern({'a': 1})\n    async def x(self): ...\n"
        "    @event_pattern('b c')\n    async def y(self): ...\n"
        "tree = Supervisor('s', [child(A), serve('nats://127.0.0.1:1')])",
        "fault: s/nats: nats://127.0.0.1:1: the pattern 'b c' cannot be a NATS subject, which has "
        "no spaces and no empty part between dots. Give it another name, or serve it elsewhere.",
    ),
    "a wildcard that its only bridge cannot carry": (
        "class A(Actor):\n    @event_pattern('a/+')\n    async def x(self): ...\n"
        "tree = Supervisor('s', [child(A), serve('nats://127.0.0.1:1')])",
        "fault: s/nats: the pattern 'a/+' is a wildcard of MQTT's kind; nothing comes for it here. "
        "Serve it by another transport, or remove it.",
    ),
}


@pytest.mark.parametrize(("source", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_with_its_path_and_what_to_do(
    folder: Path, module: str, capsys: Capture, source: str, fault: str
) -> None:
    assert _check(folder, module, source) == 78

    assert capsys.readouterr().out == f"{fault}\n1 fault.\n"


def test_all_faults_are_told_at_once(folder: Path, module: str, capsys: Capture) -> None:
    sources = [FAULTS["a missing argument"][0], "tree = Supervisor('s', [child(A, shutdown=99), "
               "child(Plain, needs('x'))])"]  # fmt: skip

    assert _check(folder, module, "\n".join(sources)) == 78
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in lines[:-1]] == [
        "s/plain", "s/a", "s/plain", "s/a",
    ]  # fmt: skip
    assert lines[-1] == "4 faults."


DOUBTS = {
    "a start that may wait": (
        "class A(Actor):\n    def __init__(self, b): ...\n    async def started(self): ...\n"
        "tree = Supervisor('s', [child(A, needs('b')), child(Plain, name='b')])",
        "doubt: s/a: has a started() and needs('b'), which starts after it: to ask it there would "
        "wait for ever. Put 'b' before 'a', or ask later.",
    ),
    "stops that take too long together": (
        "tree = Supervisor('s', [child(Plain, shutdown=20), child(Plain, name='b'), "
        "Supervisor('in', [pool(Plain, size=2, shutdown=8)])])",
        "doubt: s: stops its children one after the other, which may take 36 s by their own "
        "shutdown= alone, but has 30 s to drain. Give them smaller ones, or the tree more: "
        "run(tree, drain=...), --drain.",
    ),
    "a wildcard in the middle": (
        "class A(Actor):\n    @event_pattern('a.>.b')\n    async def x(self): ...\n"
        "tree = Supervisor('s', [child(A)])",
        "doubt: s/a: in the pattern 'a.>.b' '>' is no wildcard, since it does not stand at the "
        "end: it means itself. For one level write '*' (or '+', with slashes).",
    ),
    "a wildcard that another bridge carries": (
        "class A(Actor):\n    @event_pattern('a/+')\n    async def x(self): ...\n"
        "tree = Supervisor('s', [child(A), serve('nats://127.0.0.1:1'), "
        "serve('tcp://127.0.0.1:0')])",
        "doubt: s/nats: the pattern 'a/+' is a wildcard of MQTT's kind; nothing comes for it here. "
        "Others serve it.",
    ),
}


@pytest.mark.parametrize(("source", "doubt"), DOUBTS.values(), ids=DOUBTS)
def test_a_doubt_is_told_and_is_no_fault(
    folder: Path, module: str, capsys: Capture, source: str, doubt: str
) -> None:
    assert _check(folder, module, source) == 0

    assert capsys.readouterr().out == f"{doubt}\n{module}:tree: no faults.\n"


WELL = {
    "wildcards that all get something": (
        "class A(Actor):\n    @message_pattern('a.*')\n    async def x(self): ...\n"
        "    @message_pattern('a.>')\n    async def y(self): ...\n"
        "    @message_pattern('a.b')\n    async def z(self): ...\n"
        "    @message_pattern('>')\n    async def w(self): ...\n"
        "tree = Supervisor('s', [child(A)])"
    ),
    "events that several take": (
        "class A(Actor):\n    @event_pattern('a.*')\n    async def x(self): ...\n"
        "    @event_pattern('a.>')\n    async def y(self): ...\n"
        "tree = Supervisor('s', [child(A), child(A, name='b'), serve('nats://127.0.0.1:1')])"
    ),
    "a supervisor that waits for its children": (
        "tree = Supervisor('s', [Supervisor('in', [pool(Plain, size=2)])])"
    ),
    "many children with the usual limits": (
        "many = [child(Plain, name=f'p{n}') for n in range(50)]\n"
        "tree = Supervisor('s', [*many, serve('tcp://127.0.0.1:1')])"
    ),
    "long stops side by side": (
        "many = [child(Plain, name=f'p{n}', shutdown=20) for n in range(50)]\n"
        "tree = Supervisor('s', many, stop_together=True)"
    ),
    "a resource with what it takes": (
        "tree = Supervisor('s', [resource(pool_of, 'url', name='db')])"
    ),
}


@pytest.mark.parametrize("source", WELL.values(), ids=WELL)
def test_a_tree_without_faults_is_0(
    folder: Path, module: str, capsys: Capture, source: str
) -> None:
    assert _check(folder, module, source) == 0

    assert capsys.readouterr().out == f"{module}:tree: no faults.\n"


def test_the_drain_may_be_another(folder: Path, module: str) -> None:
    source = FAULTS["a stop that takes too long"][0]

    assert _check(folder, module, source, "--drain", "60") == 0


def test_what_a_declaration_refuses_is_78(folder: Path, module: str, capsys: Capture) -> None:
    source = "tree = Supervisor('s', [child(Plain), child(Plain)])"

    assert _check(folder, module, source) == 78
    assert "two children called 'plain'" in capsys.readouterr().err


def test_nothing_of_a_checked_tree_comes_to_life(folder: Path, module: str) -> None:
    source = (
        "class A(Actor):\n    def __init__(self): 1 / 0\n"
        "@asynccontextmanager\nasync def never():\n    1 / 0\n    yield\n"
        "tree = Supervisor('s', [resource(never), child(A), serve('tcp://127.0.0.1:1')])"
    )

    assert _check(folder, module, source) == 0


_ROUTES = """
from attrs import frozen

@frozen
class Order:
    id: int

class Orders(Actor):
    on_error = {TimeoutError: "retry"}

    @message_pattern("orders.find")
    async def find(self, id: int) -> Order | None: ...

    @message_pattern({"cmd": "all"})
    async def all(self):
        yield 1

    @event_pattern("orders.*", retry=RetryPolicy(attempts=1))
    async def any(self, order: Order) -> None: ...

    @event_pattern("orders.bulk", batch=50, within=0.5)
    async def bulk(self, orders: list[Order]) -> None: ...

    @message_pattern("orders.print", thread=True)
    def print(self) -> bytes: ...

tree = Supervisor("shop", [pool(Orders, size=3, concurrency=8, key="id")])
"""


def test_routes_are_listed_with_types_and_policies(
    folder: Path, module: str, capsys: Capture
) -> None:
    (folder / f"{module}.py").write_text(_BEGIN + _ROUTES)

    assert main(["routes", f"{module}:tree", "--json"]) == 0
    routes = {
        (one := json.loads(line))["pattern"]: one for line in capsys.readouterr().out.splitlines()
    }
    assert list(routes) == sorted(routes)
    assert routes["orders.find"] == {
        "pattern": "orders.find",
        "kind": "request",
        "path": "shop/orders",
        "handler": "Orders.find",
        "payload": "int",
        "answer": "Order | None",
        "runs": "pool of 3, 8 at a time, in order by key",
        "policies": "on_error for TimeoutError",
    }
    assert (routes['{"cmd":"all"}']["kind"], routes['{"cmd":"all"}']["payload"]) == ("stream", "-")
    assert routes["orders.*"]["policies"] == "tried once, on_error for TimeoutError"
    bulk = routes["orders.bulk"]
    assert (bulk["payload"], bulk["answer"]) == ("list[Order]", "")
    assert "batches of 50 within 0.5 s" in bulk["runs"]
    assert "in a thread" in routes["orders.print"]["runs"]


def test_routes_are_a_table(folder: Path, module: str, capsys: Capture) -> None:
    (folder / f"{module}.py").write_text(_BEGIN + _ROUTES)

    assert main(["routes", f"{module}:tree"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["PATTERN", "KIND", "ACTOR", "PAYLOAD", "ANSWER", "RUNS", "POLICIES"]
    assert len(rows) == 5
    assert {row.index("shop/orders") for row in rows} == {head.index("ACTOR")}


def test_a_tree_without_patterns_says_so(folder: Path, module: str, capsys: Capture) -> None:
    (folder / f"{module}.py").write_text(_BEGIN + "tree = Supervisor('s', [child(Plain)])")

    assert main(["routes", f"{module}:tree"]) == 0
    assert "no patterns; its actors are reached by reference only" in capsys.readouterr().out
