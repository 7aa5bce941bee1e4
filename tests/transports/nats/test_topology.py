"""Which subjects are subscribed to and which are read from a stream, as tables."""

import pytest

from understudy.actors.errors import DeclarationError
from understudy.transports.broker.channels import Channels
from understudy.transports.nats.topology import Topology, covers, minimal, overlap


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.b", "a.*", False),
        ("a.*", "a.>", False),
        ("a.>", "a.*", True),
        ("a.>", "a", False),
        ("a.>", "a.b.c", True),
        ("*.>", "a.>", True),
        ("a.*", "a.b.c", False),
        (">", "a.>", True),
    ],
)
def test_one_subject_covers_another(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.*", "*.b", True),
        ("a.b", "a.c", False),
        ("a.>", "a", False),
        ("a.>", "*.b", True),
        ("a.*.c", "a.b.>", True),
        ("a.*", "a.b.c", False),
    ],
)
def test_two_subjects_overlap(one: str, other: str, expected: bool) -> None:
    assert (overlap(one, other), overlap(other, one)) == (expected, expected)


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        (["a", "a", "b"], ["a", "b"]),
        (["a.b", "a.*", "a.>"], ["a.>"]),
        (["a.*", "*.b", "a.b"], ["a.*", "*.b"]),
    ],
)
def test_what_another_covers_is_not_named(subjects: list[str], expected: list[str]) -> None:
    assert minimal(subjects) == expected
    assert Channels(subjects).subscribed == expected


@pytest.mark.parametrize(
    "held", [["orders.>"], ["orders.*"], [">"]], ids=["rest", "one", "everything"]
)
def test_a_stream_may_not_hold_what_is_asked_for(held: list[str]) -> None:
    topology = Topology(["orders.find"], ["orders.placed"], held)

    with pytest.raises(DeclarationError, match="name what the stream is to hold"):
        topology.check(["orders.find"], "nats://here", "ORDERS")


def test_a_stream_must_hold_what_is_read_from_it() -> None:
    topology = Topology([], ["orders.placed"], ["bills.>"])

    with pytest.raises(DeclarationError, match=r"not among the subjects .* bills\.>"):
        topology.check([], "nats://here", "ORDERS")
