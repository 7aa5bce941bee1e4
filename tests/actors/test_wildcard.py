import pytest

from understudy.actors.wildcard import Wildcards, is_wildcard, matches


@pytest.mark.parametrize(
    "pattern", ["a.*", "*.b", "*", "a.>", ">", "a/+", "+/b", "a/#", "#", "a/+/c/#", "+"]
)
def test_a_token_that_stands_for_others_makes_a_wildcard(pattern: str) -> None:
    assert is_wildcard(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["a", "a.b", "a*", "a.b*", "a.>b", ">.a", "a/b#", "#/a", "c++", "", '{"cmd":"a.*.b"}'],
)
def test_a_wildcard_within_a_token_means_itself(pattern: str) -> None:
    assert not is_wildcard(pattern)


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        ("orders.*", "orders.created"),
        ("*.created", "orders.created"),
        ("orders.*.eu", "orders.created.eu"),
        ("orders.>", "orders.created"),
        ("orders.>", "orders.created.eu.1"),
        (">", "orders"),
        ("orders/+", "orders/created"),
        ("orders/+", "orders/"),
        ("orders/#", "orders/created/eu"),
        ("orders/#", "orders"),
        ("#", "orders/created"),
        ("$SYS/#", "$SYS/broker"),
        ("a.b", "a.b"),
    ],
)
def test_a_pattern_matches_its_routes(pattern: str, route: str) -> None:
    assert matches(pattern, route)


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        ("orders.*", "orders"),
        ("orders.*", "orders.created.eu"),
        ("orders.>", "orders"),
        ("orders.>", "stock.created"),
        ("orders/+", "orders"),
        ("orders/+", "orders/created/eu"),
        ("orders/#", "stock/created"),
        ("#", "$SYS/broker"),
        ("+/broker", "$SYS/broker"),
        ("a.b", "a.c"),
    ],
)
def test_a_pattern_matches_nothing_else(pattern: str, route: str) -> None:
    assert not matches(pattern, route)


def test_the_most_specific_pattern_comes_first() -> None:
    table: Wildcards[str] = Wildcards()
    for pattern in (">", "orders.>", "*.created", "orders.*", "orders.created.>"):
        table.add(pattern, pattern)

    assert table.matching("orders.created") == ["orders.*", "orders.>", "*.created", ">"]


def test_values_of_one_pattern_keep_their_order() -> None:
    table: Wildcards[int] = Wildcards()
    table.add("a.*", 2)
    table.add("a.*", 1)

    assert table.matching("a.b") == [2, 1]
    assert table.at("a.*") == [2, 1]


def test_a_removed_value_is_found_no_more() -> None:
    table: Wildcards[int] = Wildcards()
    table.add("a.*", 1)
    table.add("a/+", 1)
    table.add("a.*", 2)

    table.remove(1)

    assert table.matching("a.b") == [2]
    assert table.matching("a/b") == []


def test_a_table_without_patterns_is_false() -> None:
    table: Wildcards[int] = Wildcards()
    assert not table
    table.add("a.*", 1)
    assert table
    table.remove(1)
    assert not table


def test_a_concrete_pattern_cannot_be_added() -> None:
    with pytest.raises(ValueError, match=r"'a\.b' is no wildcard"):
        Wildcards[int]().add("a.b", 1)


def test_a_wildcard_in_a_route_is_no_wildcard() -> None:
    """What comes from outside must not widen itself."""
    table: Wildcards[int] = Wildcards()
    table.add("orders.*.x", 1)

    assert table.matching("orders.>") == []
    assert table.matching("*.*.x") == []
    assert table.matching("orders.*.x") == [1]
