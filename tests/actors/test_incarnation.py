"""One life of whatever a supervisor runs: how it ends, and who is told."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from understudy.actors.incarnation import Crash, Ending, Incarnation, SupervisorGaveUp

Body = Callable[[Incarnation], Awaitable[None]]


@attrs.frozen
class Runs:
    """A `Runnable` made of one function."""

    body: Body

    async def run(self, incarnation: Incarnation) -> None:
        await self.body(incarnation)

    def open(self) -> None:
        """Nothing waits for it."""

    def close(self, why: str) -> None:
        """Nothing survives it."""


@pytest.fixture
def reports() -> list[Incarnation]:
    return []


@pytest.fixture
def life(reports: list[Incarnation]) -> Incarnation:
    return Incarnation("shop/orders", 3, reports.append)


async def returns(life: Incarnation) -> None: ...


async def waits_for_stop(life: Incarnation) -> None:
    await life.stop_asked()


async def stops_itself(life: Incarnation) -> None:
    life.stop(drain=True)


async def crashes(life: Incarnation) -> None:
    raise ZeroDivisionError


async def crashes_in_hand(life: Incarnation) -> None:
    raise Crash(ZeroDivisionError("x"), None, "orders.find", 4)


async def gives_up(life: Incarnation) -> None:
    raise SupervisorGaveUp("shop", "shop/orders", 3, 5.0)


async def is_interrupted(life: Incarnation) -> None:
    raise KeyboardInterrupt


async def exits_in_a_nursery(life: Incarnation) -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(trio.sleep_forever)
        async with trio.open_nursery():
            raise SystemExit(3)


async def its_children_exit(life: Incarnation) -> None:
    raise Crash(BaseExceptionGroup("", [SystemExit(3)]))


async def kills_itself(life: Incarnation) -> None:
    life.kill()
    await trio.sleep_forever()


async def fails_in_its_clean_up(life: Incarnation) -> None:
    life.kill()
    try:
        await trio.sleep_forever()
    finally:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("body", "kind", "error", "clean"),
    [
        (returns, "normal", None, True),
        (stops_itself, "shutdown", None, True),
        (crashes, "crashed", ZeroDivisionError, False),
        (crashes_in_hand, "crashed", ZeroDivisionError, False),
        (gives_up, "gave up", SupervisorGaveUp, False),
        (is_interrupted, "fatal", KeyboardInterrupt, False),
        (exits_in_a_nursery, "fatal", SystemExit, False),
        (its_children_exit, "fatal", SystemExit, False),
        (kills_itself, "killed", None, False),
        (fails_in_its_clean_up, "killed", ZeroDivisionError, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_end_is_reported_as_data_and_raises_nothing(
    body: Body,
    kind: str,
    error: type[BaseException] | None,
    clean: bool,
    life: Incarnation,
    reports: list[Incarnation],
) -> None:
    await life.live(Runs(body))

    assert reports == [life]
    assert life.ending is not None
    assert (life.ending.kind, life.ending.clean) == (kind, clean)
    assert type(life.ending.error) is (error or type(None))


async def test_a_crash_in_hand_says_on_what(life: Incarnation) -> None:
    await life.live(Runs(crashes_in_hand))

    assert life.ending is not None
    assert (life.ending.pattern, life.ending.streak) == ("orders.find", 4)


async def test_a_stop_is_asked_for_once_and_touches_no_cancel_scope(life: Incarnation) -> None:
    asked: list[bool] = []
    life.on_stop(lambda: asked.append(life.draining))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(life.live, Runs(waits_for_stop))
        life.stop(drain=True)
        life.stop(drain=False)

    assert asked == [True]
    assert not life.killed


def test_the_first_end_counts_and_fences_once(
    life: Incarnation, reports: list[Incarnation]
) -> None:
    fenced: list[str] = []
    life.on_fence(lambda: fenced.append("first"))
    life.on_fence(lambda: fenced.append("last"))
    life.end(Ending("stuck"))
    life.end(Ending("normal"))

    assert fenced == ["last", "first"]
    assert (life.ending, life.interrupt, reports) == (Ending("stuck"), True, [life])


async def test_a_start_is_announced_with_what_it_offers(
    life: Incarnation, reports: list[Incarnation], clock: MockClock
) -> None:
    life.announce("the pool", "127.0.0.1:3000")

    assert (life.started, life.offer, life.address) == (True, "the pool", "127.0.0.1:3000")
    assert reports == [life]
