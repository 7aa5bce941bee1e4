"""Which filters are subscribed to, and what a topic means to the tree."""

from typing import Any

import pytest

from understudy.actors.errors import DeclarationError
from understudy.transports.mqtt.options import MqttOptions, address, is_topic
from understudy.transports.mqtt.topics import Topics, is_filter


def topics(*routes: str, **options: Any) -> Topics:
    return Topics(routes, MqttOptions(**options), "mqtt://here")


@pytest.mark.parametrize(
    ("route", "options", "wanted"),
    [
        ("orders.find", {}, "orders.find"),
        ('{"cmd":"sum"}', {}, '{"cmd":"sum"}'),
        ("orders/+/paid", {"prefix": "shop"}, "shop/orders/+/paid"),
        ("orders/#", {"prefix": "shop/", "share": "g"}, "$share/g/shop/orders/#"),
        ("$share/own/orders/+", {"prefix": "shop", "share": "g"}, "$share/own/shop/orders/+"),
        ("a", {"dialect": "nestrs"}, "nestrs/rpc/requests"),
        ("a", {"dialect": "nestrs", "prefix": "/p/", "share": "g"}, "$share/g/p/rpc/requests"),
    ],
    ids=["text", "object", "prefix", "share", "a share of its own", "nestrs", "nestrs's prefix"],
)
def test_a_route_is_subscribed_to(route: str, options: Any, wanted: str) -> None:
    assert list(topics(route, **options).filters.values()) == [wanted]


def test_what_a_wildcard_covers_is_not_subscribed_to_beside_it() -> None:
    found = topics("a/#", "a/b", "a/+/c", "b/+", "+/x")

    assert found.subscribed == ["a/#", "b/+", "+/x"]
    assert found.overlapping == {"a/#", "b/+", "+/x"}
    assert sorted(found.identifiers.values()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("topic", "route"),
    [
        ("p/plain", "plain"),
        ("p/shared", "$share/g/shared"),
        ("p/wild/7", "$share/h/wild/7"),
        ("p/other", "other"),
    ],
)
def test_a_topic_of_a_shared_pattern_is_its_pattern(topic: str, route: str) -> None:
    found = topics("plain", "$share/g/shared", "$share/h/wild/+", prefix="p")

    assert found.route(topic) == route


def test_wildcards_of_nats_are_told_and_not_subscribed_to() -> None:
    found = topics("orders.*", "orders.>", "orders/+")

    assert (found.subscribed, found.foreign) == (["orders/+"], ["orders.*", "orders.>"])


@pytest.mark.parametrize(
    "route",
    ["a/b+", "a/#/b", "a#", "tab\t", "\x00", "\ufffe", "$share/g", "$share//a", "x" * 65536],
)
def test_a_pattern_that_no_broker_takes_is_refused(route: str) -> None:
    with pytest.raises(DeclarationError, match="the pattern"):
        topics(route)


@pytest.mark.parametrize("text", ["", "a+", "#", "a\n", "\x7f", "\x9f", "\ufdd0", "\U0001ffff"])
def test_what_brokers_close_connections_for_is_no_topic(text: str) -> None:
    assert not is_topic(text)


@pytest.mark.parametrize("text", ["a", " ", "/", "é/✓", "\u2028", "\xa0", "{}", "$x"])
def test_odd_texts_are_topics_and_filters(text: str) -> None:
    assert is_topic(text)
    assert is_filter(text)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mqtt://a", ("a", 1883)),
        ("mqtts://a", ("a", 8883)),
        ("mqtt://u:p@a:7?x=y", ("a", 7)),
        ("mqtt://[::1]", ("::1", 1883)),
    ],
)
def test_a_broker_has_its_usual_port_unless_told_otherwise(
    url: str, found: tuple[str, int]
) -> None:
    assert address(url) == found
