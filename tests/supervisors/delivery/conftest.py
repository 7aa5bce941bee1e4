"""Dead letters for the tests of delivery."""

from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest

from understudy.supervisors.delivery.record import DeadLetter, new_id


@pytest.fixture
def letter() -> Callable[..., DeadLetter]:
    """Makes letters a second apart from each other; arguments replace its fields."""
    random, made = Random(7), 0

    def make(**changes: Any) -> DeadLetter:
        nonlocal made
        made += 1
        at = 1_750_000_000.0 + made
        plain = DeadLetter(
            id=new_id(at, random),
            at=at,
            kind="event",
            pattern="orders.created",
            handler="/shop/orders.on_created",
            actor="/shop/orders",
            incarnation=3,
            transport="nats",
            source="orders.created",
            message_id="m-1",
            correlation_id="c-1",
            headers={"traceparent": "00-abc-01"},
            body=b'{"id": 7}',
            attempts=5,
            reason="crashed",
            error="ValueError: no such order",
            traceback='  File "orders.py", line 3\nValueError: no such order',
            first_at=at - 11.1,
        )
        return attrs.evolve(plain, **changes)

    return make
