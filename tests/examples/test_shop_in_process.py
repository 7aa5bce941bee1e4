"""The tree of the shop as a service, in this process and in virtual time."""

from typing import Final

import pytest
from trio.testing import MockClock

from examples.shop import CloseDay, Mail, OrderId, Orders, Payments, Split, Stock, shop
from understudy import RpcError
from understudy.testing import Serve, fails, inject

TREE: Final = shop("tcp://127.0.0.1:0")
WISH: Final = {"customer": "ada@example.org", "items": [{"sku": "cup", "quantity": 2}]}


async def test_the_service_refuses_what_it_does_not_have(
    service: Serve, virtual_time: MockClock
) -> None:
    async with service(TREE) as running:
        with pytest.raises(RpcError, match="there is no order 7"):
            await running.client.send(Payments.pay, OrderId(7))


async def test_a_bill_for_nobody_costs_one_answer_and_no_restart_that_counts(
    service: Serve, virtual_time: MockClock
) -> None:
    async with service(TREE) as running:
        await running.client.send("orders.place", WISH)
        with pytest.raises(RpcError, match="Internal server error"):
            await running.client.send(Orders.split, Split(1, 0))

        crash = await running.expect_crash("orders", ZeroDivisionError)
        restart = await running.expect_restart("orders")
        assert (crash.pattern, restart.left) == ("orders.split", None)
        assert await running.client.send(Orders.count) == 0


async def test_a_day_without_payments_restarts_the_back_office_together(
    service: Serve, virtual_time: MockClock
) -> None:
    async with service(TREE) as running:
        running.ref(Payments).tell(CloseDay())
        await running.expect_crash("payments", ZeroDivisionError)
        restart = await running.expect_restart("payments")
        assert restart.siblings == ("shop/back-office/mail",)
        assert (running.restarts("mail"), running.restarts(running.ref(Orders))) == (1, 0)


async def test_a_template_with_a_mistake_makes_a_dead_letter(
    service: Serve, virtual_time: MockClock
) -> None:
    async with service(TREE) as running:
        await running.client.send("orders.place", WISH)
        await running.client.emit(Mail.on_shipped, OrderId(1))
        letter = await running.expect_dead_letter(Mail.on_shipped, reason="crashed")
        assert letter.error == "KeyError: 'custmer'"


async def test_an_order_that_the_stock_does_not_answer_for_is_not_placed(
    service: Serve, virtual_time: MockClock
) -> None:
    async with service(TREE) as running:
        inject(running.ref(Stock), fails(RpcError("closed"), times=1))
        with pytest.raises(RpcError, match="closed"):
            await running.client.send("orders.place", WISH)
        assert await running.client.send(Orders.count) == 0
        assert (await running.client.send("orders.place", WISH))["id"] == 1
