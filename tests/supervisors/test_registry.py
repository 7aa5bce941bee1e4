"""Who is where: actors by class, path and name, handlers by route."""

import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import DeclarationError
from understudy.actors.handlers import event_pattern, message_pattern
from understudy.supervisors.child import Supervisor, child
from understudy.supervisors.registry import Registry
from understudy.supervisors.system import System


class Orders(Actor):
    @message_pattern("orders.find")
    def find(self) -> None: ...

    @event_pattern("day.ended")
    def close_day(self) -> None: ...

    @event_pattern("day.ended")
    def count_day(self) -> None: ...


class Stock(Actor):
    @event_pattern("day.ended")
    def close_day(self) -> None: ...


def registry_of(*children: Supervisor) -> Registry:
    return System(Supervisor("shop", children)).registry


def test_a_request_has_one_handler() -> None:
    registry = registry_of(Supervisor("eu", [child(Orders)]))

    target = registry.requests["orders.find"]
    assert (target.cell.path, target.handler.name) == ("shop/eu/orders", "Orders.find")


def test_an_event_has_all_its_handlers_in_the_order_of_the_tree() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock), child(Orders)]))

    names = [target.handler.name for target in registry.events["day.ended"]]
    assert names == ["Stock.close_day", "Orders.close_day", "Orders.count_day"]


def test_two_handlers_for_one_request_are_refused_before_anything_starts() -> None:
    tree = Supervisor("shop", [child(Orders, name="a"), child(Orders, name="b")])

    with pytest.raises(
        DeclarationError,
        match=r"'orders.find' has two handlers: Orders.find in shop/a and Orders.find in shop/b",
    ):
        System(tree)


@pytest.mark.parametrize("wanted", ["shop/eu/orders", "eu/orders", "orders"])
def test_an_actor_is_found_by_path_and_by_name(wanted: str) -> None:
    registry = registry_of(Supervisor("eu", [child(Orders)]))

    assert registry.find(wanted).path == "shop/eu/orders"


def test_an_actor_is_found_by_its_class() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock), child(Orders)]))

    assert registry.find(Orders).path == "shop/eu/orders"


def test_one_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock)]))

    with pytest.raises(
        LookupError, match="no actor 'Orders' in this tree; there are: shop/eu/stock"
    ):
        registry.find(Orders)


def test_one_that_is_there_twice_must_be_asked_for_by_its_path() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock)]), Supervisor("us", [child(Stock)]))

    with pytest.raises(
        LookupError, match="any of shop/eu/stock, shop/us/stock; ask with the whole"
    ):
        registry.find("stock")


def test_an_actor_that_left_handles_nothing_and_frees_its_patterns() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock), child(Orders)]))
    before = registry.version
    cell = registry.find(Orders)

    registry.remove(cell)

    assert list(registry.cells) == ["shop/eu/stock"]
    assert (registry.requests, len(registry.events["day.ended"])) == ({}, 1)
    assert registry.version > before
    registry.add(cell)


def test_removing_one_that_is_not_there_changes_nothing() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock)]))
    before = registry.version
    stranger = registry_of(Supervisor("eu", [child(Stock)])).find(Stock)

    registry.remove(stranger)

    assert (list(registry.cells), registry.version) == (["shop/eu/stock"], before)


def test_a_refused_actor_leaves_no_handler_behind() -> None:
    registry = registry_of(Supervisor("eu", [child(Orders)]))
    other = registry_of(Supervisor("us", [child(Orders)])).find(Orders)

    with pytest.raises(DeclarationError):
        registry.add(other)

    assert [target.cell.path for target in registry.events["day.ended"]] == ["shop/eu/orders"] * 2


# -- wildcards --------------------------------------------------------------------


class Audit(Actor):
    @event_pattern("day.*")
    def any_day(self) -> None: ...

    @event_pattern("day.>")
    def all_days(self) -> None: ...

    @message_pattern("orders.*")
    def orders(self) -> None: ...

    @message_pattern("orders.>")
    def any_order(self) -> None: ...


def test_the_very_pattern_of_a_request_goes_before_any_wildcard() -> None:
    registry = registry_of(Supervisor("eu", [child(Audit), child(Orders)]))

    found = [registry.request(route) for route in ("orders.find", "orders.list", "orders.a.b")]
    assert [target.handler.name if target else "" for target in found] == [
        *("Orders.find", "Audit.orders", "Audit.any_order")
    ]
    assert registry.request("stock.find") is None


def test_an_event_has_its_own_handlers_first_and_then_those_of_wildcards() -> None:
    registry = registry_of(Supervisor("eu", [child(Audit), child(Orders)]))

    names = [target.handler.name for target in registry.event("day.ended")]
    assert names == ["Orders.close_day", "Orders.count_day", "Audit.any_day", "Audit.all_days"]
    assert [target.handler.name for target in registry.event("day.a.b")] == ["Audit.all_days"]


def test_a_wildcard_is_no_exact_pattern() -> None:
    registry = registry_of(Supervisor("eu", [child(Audit)]))

    assert (registry.requests, registry.events) == ({}, {})


def test_two_handlers_for_one_request_wildcard_are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"'orders\.\*' has two handlers: Audit.orders in"):
        registry_of(Supervisor("eu", [child(Audit, name="a"), child(Audit, name="b")]))


def test_wildcards_leave_with_their_actor() -> None:
    registry = registry_of(Supervisor("eu", [child(Audit)]))
    cell, before = registry.find(Audit), registry.version

    registry.remove(cell)

    assert (registry.request("orders.list"), registry.event("day.ended")) == (None, [])
    assert registry.version > before
    registry.add(cell)
    assert registry.request("orders.list") is not None


# -- many -------------------------------------------------------------------------


class Plain(Actor):
    """Handles no pattern."""


def test_an_actor_without_patterns_does_not_change_the_version() -> None:
    registry = registry_of(Supervisor("eu", [child(Stock)]))
    before = registry.version
    plain = registry_of(Supervisor("us", [child(Plain)])).find(Plain)

    registry.add(plain)
    registry.remove(plain)

    assert registry.version == before


def test_those_that_share_a_name_are_found_again_when_one_is_left() -> None:
    registry = registry_of(Supervisor("eu", [child(Plain)]), Supervisor("us", [child(Plain)]))

    registry.remove(registry.find("shop/eu/plain"))

    assert registry.find("plain").path == "shop/us/plain"
    assert registry.find(Plain).path == "shop/us/plain"


def test_an_error_lists_a_few_of_very_many() -> None:
    registry = registry_of(Supervisor("eu", [child(Plain, name=f"p{n}") for n in range(50)]))

    with pytest.raises(LookupError, match=r"shop/eu/p19 and 30 more\.$"):
        registry.find("nobody")


def test_a_private_actor_is_found_but_handles_no_patterns() -> None:
    registry = registry_of(Supervisor("eu", [child(Plain)]))
    cell = registry_of(Supervisor("us", [child(Orders)])).find(Orders)

    registry.add(cell, "private")

    assert registry.find(Orders) is cell
    assert (registry.request("orders.find"), registry.event("day.ended")) == (None, [])


def test_a_member_is_found_by_its_whole_path_only() -> None:
    registry = registry_of(Supervisor("eu", [child(Plain)]))
    cell = registry_of(Supervisor("us", [child(Orders)])).find(Orders)

    registry.add(cell, "member")

    assert registry.find("shop/us/orders") is cell
    for wanted in (Orders, "orders"):
        with pytest.raises(LookupError):
            registry.find(wanted)
