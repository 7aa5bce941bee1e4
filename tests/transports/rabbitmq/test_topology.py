"""Options that can never work, and patterns as routing keys."""

from typing import Any

import pytest

from understudy.actors.errors import DeclarationError
from understudy.transports.bridge import serve
from understudy.transports.client import connect
from understudy.transports.rabbitmq.options import servers, virtual_host
from understudy.transports.rabbitmq.topology import binding_keys, routing_key

URL = "amqp://127.0.0.1"


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("orders.created", ["orders.created"]),
        ("orders.*", ["orders.*"]),
        ("*.created", ["*.created"]),
        ("orders.>", ["orders.*.#"]),
        ("sale/+/paid", ["sale.*.paid"]),
        ("sale/#", ["sale.#"]),
        ("sale/eu", ["sale/eu", "sale.eu"]),
        ('{"cmd":"a/b"}', ['{"cmd":"a/b"}']),
    ],
    ids=str,
)
def test_a_pattern_is_bound_by_the_keys_that_bring_it(pattern: str, keys: list[str]) -> None:
    assert binding_keys(pattern) == keys


def test_levels_are_words_in_a_routing_key() -> None:
    assert routing_key("sale/eu/7") == "sale.eu.7"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "there is no queue"),
        ({"exchange": "x"}, "nothing would come by the exchange 'x'"),
        ({"exchange": "x", "wildcards": True, "dialect": "nestrs"}, "nestrs knows no exchanges"),
        ({"queue": "q", "quorum": True, "durable": False}, "a quorum queue is durable"),
        ({"queue": "q", "quorum": True, "max_priority": 5}, "has no max_priority"),
        ({"queue": "q", "exchange_type": "headers"}, "'exchange_type' must be in"),
        ({"queue": "q", "queu": "q"}, "there is no option 'queu'. Did you mean 'queue'?"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_options_that_can_never_work_fail_the_declaration(
    options: dict[str, Any], why: str
) -> None:
    with pytest.raises(DeclarationError, match=f"^{URL}: .*{why}"):
        serve(URL, **options)


def test_a_client_without_a_queue_is_refused_and_one_of_nestrs_has_its() -> None:
    with pytest.raises(DeclarationError, match="there is no queue"):
        connect(URL)
    connect(URL, dialect="nestrs")


@pytest.mark.parametrize(
    ("url", "host"),
    [(URL, "/"), (f"{URL}/", "/"), (f"{URL}/shop", "shop"), (f"{URL}/%2Fshop%20a", "/shop a")],
    ids=["none", "slash", "named", "quoted"],
)
def test_the_path_is_the_virtual_host(url: str, host: str) -> None:
    assert virtual_host(url) == host


def test_a_cluster_has_more_addresses() -> None:
    assert servers("amqps://a:1", "b, amqps://c:3") == [("a", 1), ("b", 5671), ("c", 3)]
