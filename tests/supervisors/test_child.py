"""Specs are data, and what can never work is refused when it is written down."""

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError
from understudy.supervisors.child import ChildSpec, Supervisor, child, needs
from understudy.supervisors.resource import resource
from understudy.supervisors.strategy import rest_for_one


class Orders(Actor):
    def __init__(self, *needed: Any, **named: Any) -> None: ...


def open_pool(*needed: Any) -> AbstractAsyncContextManager[object]:
    return nullcontext(object())


def test_a_spec_says_what_it_specifies() -> None:
    spec = child(Orders, 7, name="orders-eu", concurrency=8, mailbox=16)

    assert (spec.name, spec.actor, spec.arguments) == ("orders-eu", Orders, (7,))
    assert (spec.options.concurrency, spec.options.mailbox) == (8, 16)


def test_equal_specs_are_equal() -> None:
    assert child(Orders, 7) == child(Orders, 7)
    assert child(Orders, 7) != child(Orders, 8)


def test_a_child_is_called_as_its_class_or_factory_unless_named() -> None:
    assert child(Orders).name == "orders"
    assert resource(open_pool).name == "open_pool"


def test_an_actor_has_five_seconds_to_stop_and_a_supervisor_all_the_time_it_takes() -> None:
    assert child(Orders).shutdown == 5
    assert Supervisor("shop").shutdown == math.inf


def test_a_spec_lists_what_it_needs() -> None:
    spec = child(Orders, needs("pool"), 7, keywords={"clock": needs("clock")})

    assert list(spec.needed()) == ["pool", "clock"]


def test_a_supervisor_needs_what_its_children_do_not_offer_each_other() -> None:
    inner = Supervisor(
        "inner", [resource(open_pool), child(Orders, needs("open_pool"), needs("x"))]
    )

    assert list(inner.needed()) == ["x"]


def test_a_child_may_need_a_reference_of_a_later_sibling() -> None:
    Supervisor("shop", [child(Orders, needs("stock")), child(Orders, name="stock")])


LATE: list[tuple[str, Callable[[], Supervisor]]] = [
    (
        "resource",
        lambda: Supervisor("s", [child(Orders, needs("pool")), resource(open_pool, name="pool")]),
    ),
    ("supervisor", lambda: Supervisor("s", [child(Orders, needs("pool")), Supervisor("pool")])),
    (
        "below",
        lambda: Supervisor(
            "s", [Supervisor("in", [child(Orders, needs("pool"))]), Supervisor("pool")]
        ),
    ),
]


@pytest.mark.parametrize("tree", [tree for _, tree in LATE], ids=[name for name, _ in LATE])
def test_what_a_child_needs_must_start_before_it(tree: Callable[[], Supervisor]) -> None:
    with pytest.raises(
        DeclarationError, match=r"needs 'pool', which starts later. Put 'pool' before"
    ):
        tree()


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "empty name": (lambda: child(Orders, name=" "), "' ' cannot name a child"),
    "slash in a name": (lambda: Supervisor("a/b"), "'a/b' cannot name a child"),
    "unknown restart type": (
        lambda: child(Orders, restart="sometimes"),  # type: ignore[arg-type]
        "restart must be permanent, transient or temporary, got 'sometimes'",
    ),
    "negative shutdown": (lambda: child(Orders, shutdown=-1), "shutdown must not be negative"),
    "shutdown that is no number": (lambda: child(Orders, shutdown=math.nan), "got nan and 30.0"),
    "no time to start": (lambda: child(Orders, start_timeout=0), "start_timeout must be positive"),
    "no mailbox": (
        lambda: child(Orders, mailbox=0),
        r"child\(Orders\): mailbox must be at least 1",
    ),
    "no lanes": (lambda: child(Orders, concurrency=0), "concurrency must be at least 1, got 0"),
    "sick at once": (lambda: child(Orders, sick_after=0), "sick_after must be at least 1"),
    "negative age": (lambda: child(Orders, max_age=-1), "max_age must be at least 0, got -1"),
    "unknown blame": (
        lambda: child(Orders, blame="peer"),  # type: ignore[arg-type]
        "blame must be one of 'message', 'actor', got 'peer'",
    ),
    "strategy by name": (
        lambda: Supervisor("s", strategy="one_for_all"),  # type: ignore[arg-type]
        "strategy must be one_for_one, one_for_all or rest_for_one, got 'one_for_all'",
    ),
    "unknown auto_shutdown": (
        lambda: Supervisor("s", auto_shutdown="some"),  # type: ignore[arg-type]
        "auto_shutdown must be one of 'never', 'any', 'all', got 'some'",
    ),
    "negative max_restarts": (
        lambda: Supervisor("s", max_restarts=-1),
        "max_restarts must not be negative and within must be positive, got -1 and 5.0",
    ),
    "no window": (lambda: Supervisor("s", within=0), "got 3 and 0"),
    "no children at all": (
        lambda: Supervisor("s", max_children=0),
        "max_children must be positive and not less than the 0 children declared, got 0",
    ),
    "more children than allowed": (
        lambda: Supervisor("s", [child(Orders), child(Orders, name="b")], max_children=1),
        "not less than the 2 children declared, got 1",
    ),
    "a stop at once of those that depend on each other": (
        lambda: Supervisor("s", strategy=rest_for_one, stop_together=True),
        "so only with one_for_one, got rest_for_one",
    ),
    "unknown overflow": (
        lambda: child(Orders, overflow="burst"),  # type: ignore[arg-type]
        "overflow must be one of 'wait', 'reject', 'drop_oldest', 'drop_newest', got 'burst'",
    ),
    "negative passivate_after": (
        lambda: child(Orders, passivate_after=-1),
        "passivate_after must be at least 0, got -1",
    ),
    "a class for a child": (
        lambda: Supervisor("s", [Orders]),  # type: ignore[list-item]
        r"is no child spec. Wrap actors with child\(...\)",
    ),
    "two of a name": (
        lambda: Supervisor("s", [child(Orders), child(Orders)]),
        "supervisor 's' has two children called 'orders'. Give one of them another name=",
    ),
    "significant for nothing": (
        lambda: Supervisor("s", [child(Orders, significant=True, restart="transient")]),
        r"a significant child \('orders'\) needs auto_shutdown='any' or 'all'",
    ),
    "significant and permanent": (
        lambda: Supervisor("s", [child(Orders, significant=True)], auto_shutdown="any"),
        "and restart='transient' or 'temporary'",
    ),
}


@pytest.mark.parametrize(("declare", "error"), REFUSED.values(), ids=REFUSED)
def test_what_can_never_work_is_refused(declare: Callable[[], object], error: str) -> None:
    with pytest.raises(DeclarationError, match=error):
        declare()


def test_a_tree_may_need_names_of_its_siblings_and_of_those_above() -> None:
    inner = Supervisor("inner", [child(Orders, needs("pool"), needs("stock"))])
    tree = Supervisor(
        "shop", [resource(open_pool, name="pool"), child(Orders, name="stock"), inner]
    )

    tree.check_needs()


def test_a_name_that_nobody_has_is_refused_with_the_place_that_needs_it() -> None:
    inner = Supervisor("inner", [child(Orders, needs("pool"))])
    tree = Supervisor("shop", [inner, Supervisor("other", [resource(open_pool, name="pool")])])

    with pytest.raises(DeclarationError, match="shop/inner/orders needs 'pool', but no sibling"):
        tree.check_needs()


def test_a_spec_of_no_kind_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="ChildSpec is no kind of child"):
        ChildSpec(name="x").build(None)  # type: ignore[arg-type]


def test_a_tree_compares_by_what_is_in_it() -> None:
    assert Supervisor("s", [child(Orders)]) == Supervisor("s", [child(Orders)])
    assert Supervisor("s", [child(Orders)]) != Supervisor("s", strategy=rest_for_one)


def test_specs_with_the_same_options_share_one_record_of_them() -> None:
    one, other = child(Orders, mailbox=7), child(Orders, name="b", mailbox=7)

    assert one.options is other.options
    assert child(Orders).keywords is child(Orders, name="b").keywords
