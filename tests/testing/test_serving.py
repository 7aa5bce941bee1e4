"""A whole tree as a service: what it is served by, what is seen of it, and how it ends."""

import threading
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    ConnectionLost,
    DeclarationError,
    RequestTimeout,
    RpcError,
    StartFailed,
    UnderstudyError,
)
from understudy.actors.incarnation import SupervisorGaveUp
from understudy.actors.lifecycle import GaveUp, Started, Stopped
from understudy.supervisors.child import Supervisor, child, needs
from understudy.testing import (
    Injected,
    Lifecycle,
    advance,
    crash_on,
    drop,
    fail_start,
    fails,
    inject,
    service,
    slow,
)
from understudy.transports.bridge import serve

from .shop import Add, Count, Mail, Orders, shop


async def test_a_tree_is_served_and_called_from_outside(clock: MockClock) -> None:
    async with service(shop()) as running:
        assert await running.client.send(Orders.find, 7) == "order 7"
        assert [item async for item in running.client.stream(Orders.all, 3)] == [0, 1, 2]
        await running.client.emit("orders.created", 5)
        with pytest.raises(RpcError, match="there is no order 0"):
            await running.client.send("orders.find", 0)
        assert await running.ref(Mail).ask(Count()) == 5


async def test_children_will_do_without_a_tree(clock: MockClock) -> None:
    async with service([child(Mail), child(Orders, needs("mail"))]) as running:
        assert await running.client.send(Orders.find, 7) == "order 7"
        assert running.system.tree()[-1].path == "test/test-bridge"


async def test_one_bridge_takes_the_place_of_all_of_the_tree(clock: MockClock) -> None:
    async with service(shop()) as running:
        lines = [(line.path, line.kind) for line in running.system.tree()]
    assert lines == [
        ("shop", "supervisor"),
        ("shop/mail", "actor"),
        ("shop/main", "bridge"),
        ("shop/front", "supervisor"),
        ("shop/front/orders", "actor"),
    ]


async def test_a_tree_that_is_full_has_room_for_the_bridge_of_the_test(clock: MockClock) -> None:
    async with service(Supervisor("full", [child(Mail)], max_children=1)) as running:
        assert running.system.tree()[-1].state == "running"


async def test_two_services_do_not_meet(clock: MockClock) -> None:
    async with service(shop()) as one, service(shop()) as two:
        await one.client.emit("orders.created", 1)
        await two.client.emit("orders.created", 2)
        await advance(0)
        assert await one.ref(Mail).ask(Count()) == 1
        assert await two.ref(Mail).ask(Count()) == 2


async def test_a_second_client_is_one_more(clock: MockClock) -> None:
    async with service(shop()) as running, running.connect() as client:
        assert await client.send("orders.find", 1) == "order 1"


async def test_threads_run_in_place_in_virtual_time(clock: MockClock) -> None:
    async with service(shop()) as running:
        here = threading.current_thread() is threading.main_thread()
        assert await running.client.send("orders.thread") is here


async def test_in_real_time_threads_are_threads() -> None:
    async with service(shop()) as running:
        assert await running.client.send("orders.thread") is False


# -- what has happened ----------------------------------------------------------


async def test_crashes_restarts_and_why_are_seen_by_name(clock: MockClock) -> None:
    async with service(shop()) as running:
        inject(running.ref("orders"), crash_on(1, error=ValueError("broken")))
        with pytest.raises(RpcError, match="Internal server error"):
            await running.client.send("orders.find", 7)

        crash = await running.expect_crash("orders", ValueError, match="brok")
        restart = await running.expect_restart("orders")
        await running.expect_no_crash()

        assert (crash.path, restart.incarnation) == ("shop/front/orders", 2)
        assert (running.restarts("front/orders"), running.restarts(running.ref(Mail))) == (1, 0)
        assert "ValueError: broken" in str(running.why("orders"))


async def test_a_crash_that_does_not_come_is_said_with_what_did(clock: MockClock) -> None:
    async with service(shop()) as running:
        with pytest.raises(AssertionError) as caught:
            await running.expect_crash("mail", KeyError, match="x")

    text = str(caught.value)
    assert text.startswith(
        "the lifecycle of the tree: expected a crash by KeyError of shop/mail matching 'x' within "
        "1 s; what came and was not expected yet:\n  shop/mail started"
    )
    assert "\n  shop/front/orders started" in text


async def test_a_dead_letter_is_expected_by_its_pattern(clock: MockClock) -> None:
    async with service(shop()) as running:
        await running.client.emit("orders.created", -1)
        await running.client.emit("orders.created", "one")
        await running.client.emit("orders.unknown", 1)

        first = await running.expect_dead_letter(Orders.on_created, reason="does not fit")
        assert first.body == b'"one"'
        assert (await running.expect_dead_letter("orders.created")).attempts == 5
        with pytest.raises(AssertionError) as caught:
            await running.expect_dead_letter(Orders.on_created, reason="crashed", attempts=2)
        assert len(await running.dead_letters()) == 3

    assert str(caught.value) == (
        "the dead letters: expected a dead letter of orders.created (crashed) after 2 attempts "
        "within 60 s; what came and was not expected yet: "
        "orders.unknown of nobody (no handler) after 1 attempt."
    )


async def test_what_is_told_to_receive_is_a_dead_letter_by_its_type(clock: MockClock) -> None:
    async with service(shop()) as running:
        inject(running.ref(Mail), fails(RpcError("no"), Add))
        running.ref(Mail).tell(Add(1))
        letter = await running.expect_dead_letter(Add)
        assert (letter.reason, letter.actor) == ("rejected", "shop/mail")


async def test_a_name_that_is_not_there_is_said_with_those_that_are(clock: MockClock) -> None:
    async with service(shop()) as running:
        with pytest.raises(LookupError, match="'nobody' is not one of shop, shop/mail, shop/main"):
            running.restarts("nobody")


# -- faults ---------------------------------------------------------------------


async def test_faults_are_there_from_the_first_start(clock: MockClock) -> None:
    faults = {"orders": [crash_on(1)], "shop/mail": [slow(3)]}
    async with service(shop(), faults=faults) as running:
        with pytest.raises(RpcError):
            await running.client.send("orders.find", 7)
        await running.expect_crash("orders", Injected)
        assert await running.ref(Mail).ask(Count()) == 0
        assert trio.current_time() >= 3


async def test_faults_outlive_the_supervisor_and_notices_come_once(clock: MockClock) -> None:
    faults = {"orders": [fails(ValueError("first"), "orders.sleep", times=1)]}
    async with service(shop(), faults=faults) as running:
        orders = running.ref(Orders)
        inject(orders, fails(ValueError("second"), "orders.sleep", times=1))
        with inject(orders, fails(ValueError("own"), "orders.find")):
            for _ in range(4):  # one more than its supervisor allows
                with suppress(UnderstudyError):
                    await orders.ask("orders.find", 1)
                await advance(0.5)
        await running.expect_restart("shop/front")
        assert len(running.lifecycle.of(GaveUp)) == 1

        for text in ("first", "second"):
            with pytest.raises(RpcError, match="Internal"):
                await running.client.send("orders.sleep", 0)
            await running.expect_crash("orders", ValueError, match=text)
        assert await running.client.send("orders.sleep", 0) == "awake"


async def test_notices_come_from_the_first_start_on_wherever_the_bridge_is(
    clock: MockClock,
) -> None:
    front = Supervisor("front", [serve("tcp://127.0.0.1:1")])
    async with service(Supervisor("shop", [child(Mail), front])) as running:
        started = [notice.path for notice in running.lifecycle.of(Started)]
    assert started == ["shop/mail", "shop/front/tcp", "shop/front", "shop"]


async def test_a_start_that_fails_is_what_the_block_raises(clock: MockClock) -> None:
    with pytest.raises(StartFailed, match="shop/mail"):
        async with service(shop(), faults={"mail": [fail_start(times=99)]}):
            pytest.fail("the block must not run")


async def test_what_is_dropped_does_not_keep_the_service_from_ending(clock: MockClock) -> None:
    async with service(shop()) as running:
        inject(running.ref(Orders), drop())
        with pytest.raises(RequestTimeout):
            await running.client.send("orders.find", 1, timeout=2)
        began = trio.current_time()
    assert trio.current_time() - began <= 1


async def test_faults_of_an_actor_that_is_not_there_are_refused(clock: MockClock) -> None:
    with pytest.raises(DeclarationError, match=r"no actor 'mial'\. There are: shop/mail, shop/fr"):
        async with service(shop(), faults={"mial": [drop()]}):
            pytest.fail("the block must not run")


# -- how it ends ------------------------------------------------------------------


async def test_the_block_goes_on_after_a_stop(clock: MockClock) -> None:
    async with service(shop()) as running:
        await running.stop()
        assert running.lifecycle.of(Stopped)[-1].path == "shop"
        with pytest.raises((ConnectionLost, RequestTimeout)):
            await running.client.send("orders.find", 1, timeout=1)


async def test_dead_letters_can_be_read_after_the_end(clock: MockClock) -> None:
    async with service(shop()) as running:
        await running.client.emit("orders.unknown", 1)
        await running.client.emit("orders.created", "one")
        await running.expect_dead_letter("orders.unknown")
        await running.stop()
        assert len(await running.dead_letters()) == 2
        assert (await running.expect_dead_letter(Orders.on_created)).body == b'"one"'
        assert await running.system.office.store.get("none") is None


async def test_a_stop_lets_what_is_in_hand_end_and_a_kill_does_not(clock: MockClock) -> None:
    async def ask(running: Any, outcomes: list[str]) -> None:
        try:
            outcomes.append(await running.client.send(Orders.sleep, 0.5))
        except UnderstudyError as error:
            outcomes.append(type(error).__name__)

    for end, outcome in (("stop", ["awake"]), ("kill", ["RpcError", "ConnectionLost"])):
        outcomes: list[str] = []
        async with service(shop()) as running, trio.open_nursery() as nursery:
            nursery.start_soon(ask, running, outcomes)
            await trio.sleep(0.1)
            await getattr(running, end)()
        assert outcomes[0] in outcome, end


async def test_an_error_in_the_block_comes_out_as_it_is(clock: MockClock) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with service(shop()):
            raise ValueError("mine")
    assert caught.value.__cause__ is None


async def test_a_group_of_the_block_s_own_stays_one(clock: MockClock) -> None:
    async def run() -> None:
        async with service(shop()), trio.open_nursery():
            raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert [type(one) for one in caught.value.exceptions] == [ValueError]


async def test_a_tree_that_gives_up_cancels_the_block_and_says_why(clock: MockClock) -> None:
    async def run() -> None:
        async with service(Supervisor("small", [child(Mail)], max_restarts=0)) as running:
            inject(running.ref(Mail), crash_on(1))
            running.ref(Mail).tell(Add(1))
            await trio.sleep_forever()

    with pytest.raises(SupervisorGaveUp):
        await run()


class Brief(Actor[str]):
    def receive(self, message: str) -> None:
        self.stop()


async def test_a_tree_that_ends_by_itself_does_not_let_the_test_pass(clock: MockClock) -> None:
    tree = Supervisor(
        "brief", [child(Brief, restart="temporary", significant=True)], auto_shutdown="any"
    )

    async def run() -> None:
        async with service(tree) as running:
            running.ref(Brief).tell("go")
            await trio.sleep_forever()

    with pytest.raises(AssertionError, match="brief ended by itself before its block did"):
        await run()


async def test_a_cancellation_from_outside_ends_it(clock: MockClock) -> None:
    lifecycle = Lifecycle()
    with trio.move_on_after(5) as scope:
        async with service(shop()) as running:
            lifecycle = running.lifecycle
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert lifecycle.of(Stopped)[-1].path == "shop"


async def test_sockets_are_refused_in_virtual_time(clock: MockClock) -> None:
    with pytest.raises(DeclarationError, match="Take the fixture virtual_time instead"):
        async with service(shop(), url="tcp://127.0.0.1:0"):
            pytest.fail("the block must not run")


async def test_a_real_transport_serves_the_same() -> None:
    async with service(shop(), url="tcp://127.0.0.1:0", client={"connect_timeout": 9}) as running:
        assert running.url.startswith("tcp://127.0.0.1:")
        assert await running.client.send(Orders.find, 7) == "order 7"


def test_bridges_of_programs_are_what_they_were() -> None:
    assert serve("tcp://127.0.0.1:1") in shop().children[2].children  # type: ignore[attr-defined]
