"""What is acknowledged when, and what is known again."""

from understudy.transports.broker.message import Received
from understudy.transports.mqtt.ledger import Ledger


def message(body: bytes = b"", *, again: bool = False) -> Received:
    return Received("t", body, redelivered=again)


def came(ledger: Ledger, *mids: int) -> list[Received]:
    found = [message(b"%d" % mid) for mid in mids]
    for mid, each in zip(mids, found, strict=True):
        assert ledger.add(mid, 1, each)
    return found


def due(ledger: Ledger) -> list[int]:
    return [entry.mid for entry in ledger.take_due()]


def test_acknowledgements_wait_for_those_before_them() -> None:
    ledger = Ledger()
    first, second, third = came(ledger, 7, 3, 5)

    ledger.settle(third.token)
    assert due(ledger) == []
    ledger.settle(first.token)
    assert due(ledger) == [7]
    ledger.settle(second.token)
    assert due(ledger) == [3, 5]
    assert len(ledger) == 0


def test_what_is_in_hand_when_its_session_is_resumed_is_not_run_again() -> None:
    ledger = Ledger()
    (held,) = came(ledger, 7)

    ledger.resume(present=True)
    assert not ledger.add(7, 1, message(b"7", again=True))

    ledger.settle(held.token)
    assert due(ledger) == [7]


def test_what_was_finished_meanwhile_is_acknowledged_when_it_comes_again() -> None:
    ledger = Ledger()
    (held,) = came(ledger, 7)
    ledger.resume(present=True)
    ledger.settle(held.token)
    assert due(ledger) == []

    assert not ledger.add(7, 1, message(b"7", again=True))

    assert due(ledger) == [7]


def test_a_packet_id_that_was_given_to_another_message_is_that_message() -> None:
    for other in (message(b"other", again=True), message(b"7")):
        ledger = Ledger()
        (held,) = came(ledger, 7)
        ledger.resume(present=True)

        assert ledger.add(7, 1, other)

        ledger.settle(held.token)
        assert due(ledger) == []
        ledger.settle(other.token)
        assert due(ledger) == [7]


def test_a_session_that_is_lost_takes_with_it_what_was_not_acknowledged() -> None:
    ledger = Ledger()
    (held,) = came(ledger, 7)

    ledger.resume(present=False)
    again = message(b"7", again=True)
    assert ledger.add(7, 1, again)

    ledger.settle(held.token)
    assert due(ledger) == []
    ledger.settle(again.token)
    assert due(ledger) == [7]


def test_what_has_not_come_again_is_known_over_several_connections() -> None:
    ledger = Ledger()
    came(ledger, 1, 2)
    ledger.resume(present=True)
    assert not ledger.add(1, 1, message(b"1", again=True))
    ledger.resume(present=True)

    assert not ledger.add(1, 1, message(b"1", again=True))
    assert not ledger.add(2, 1, message(b"2", again=True))


def test_an_acknowledgement_that_was_lost_is_sent_again_if_the_identity_is_the_same() -> None:
    for id, known in (("a", True), ("b", False), ("", False)):
        ledger = Ledger()
        first = Received("t", b"", message_id="a" if id else "")
        assert ledger.add(7, 1, first)
        ledger.settle(first.token)
        assert due(ledger) == [7]
        ledger.resume(present=True)

        again = Received("t", b"", message_id=id, redelivered=True)
        assert ledger.add(7, 1, again) is not known

        assert due(ledger) == ([7] if known else [])
