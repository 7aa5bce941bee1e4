"""What NestJS was recorded to write and read on Kafka, and that ours does the same.

The records were taken with NestJS's own classes and a producer and consumer that only write
down what they get. Departures, each with its reason in docs/kafka.md: text errors that no
`RpcError` makes, a stream that ends with null, and handlers that throw.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from understudy.transports.codec.packet import Answer
from understudy.transports.kafka import values
from understudy.transports.kafka.replies import ReplyAssignor, assign

FILE: Final = Path(__file__).parents[1] / "vectors" / "kafka.json"
VECTORS: Final = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]


def named(
    *beginnings: str, without: Callable[[Any], bool] = lambda _: False
) -> pytest.MarkDecorator:
    found = [v for v in VECTORS if v["what"].startswith(beginnings) and not without(v)]
    ids = [f"{vector['what']} {number}" for number, vector in enumerate(found)]
    return pytest.mark.parametrize("vector", found, ids=ids)


def bytes_of(text: Any) -> bytes | None:
    """A recorded text or buffer."""
    if text is None:
        return None
    if "buffer_b64" in text:
        return base64.b64decode(text["buffer_b64"])
    return str(text["string"]).encode()


def headers_of(message: Any) -> dict[str, bytes | None]:
    return {name: bytes_of(text) for name, text in message["headers"].items()}


def plain(record: values.Record) -> dict[str, Any]:
    return {
        "key": record.key,
        "value": record.value,
        "headers": dict(record.headers),
        "partition": record.partition,
    }


def recorded(message: Any) -> dict[str, Any]:
    return {
        "key": bytes_of(message.get("key")),
        "value": bytes_of(message["value"]),
        "headers": headers_of(message),
        "partition": message.get("partition"),
    }


# -- clients --------------------------------------------------------------------


def is_not_ours(vector: dict[str, Any]) -> bool:
    """Dates and buffers, which JSON has not, and topics that have to be subscribed to first."""
    data = vector.get("data", "")
    return "error" in vector or "1970-01-01" in data or '"Buffer"' in data


@named("client send", "client emit", without=is_not_ours)
def test_a_client_writes_the_same_record(vector: dict[str, Any]) -> None:
    (produced,) = vector["produced"]
    (message,) = produced["messages"]

    ours = plain(values.record_of(vector["data"].encode()))

    wanted = recorded(message)
    address = {values.CORRELATION_ID, values.REPLY_TOPIC, values.REPLY_PARTITION}
    for name in address - set(ours["headers"]):
        wanted["headers"].pop(name, None)  # see test_client.py
    assert ours == wanted


@named("client batch")
def test_a_batch_is_so_many_events(vector: dict[str, Any]) -> None:
    items = json.loads(vector["data"])["messages"]

    ours = [plain(values.record_of(msgspec.json.encode(item))) for item in items]

    assert ours == [recorded(message) for message in vector["produced"][0]["messages"]]


@named("client reads reply")
def test_a_client_reads_the_same_answers(vector: dict[str, Any]) -> None:
    answers: list[Answer] = []
    for reply in vector["reply"]:
        value = reply["value"]
        headers = [(name, text.encode()) for name, text in reply.get("headers", {}).items()]
        headers.append((values.CORRELATION_ID, b"mine"))
        id, body = values.answer_of(
            None if value is None else value.encode(), headers, as_json=False
        )
        assert id == "mine"
        answers.append(values.decode_answer(body))

    seen = [json.loads(bytes(a.value)) for a in answers if isinstance(a.value, msgspec.Raw)]
    errors = [a.error for a in answers if a.error is not msgspec.UNSET]
    result = vector["result"]
    # A last null is the end here, see `decode_answer`.
    assert seen == [value for value in result.get("values", []) if value is not None]
    assert errors == ([result["error"]] if "error" in result else [])
    assert [a.done for a in answers] == [False] * (len(answers) - 1) + [True]


# -- services -------------------------------------------------------------------

ANSWERS: Final = {
    "server object reply": [values.value(b"", b'{"ok":1}')],
    "server number reply": [values.value(b"", b"6")],
    "server string reply": [values.value(b"", b'"str"')],
    "server boolean reply": [values.value(b"", b"false")],
    "server null reply": [values.value(b"", b"null")],
    "server undefined reply": [values.end(b"")],
    "server array reply": [values.value(b"", b"[1,2]")],
    "server reply with key/value/headers": [
        values.value(b"", b'{"key":"k","value":{"v":1},"headers":{"x":"1"}}')
    ],
    "server stream of 3": [
        values.item(b"", b'{"n":1}'),
        values.item(b"", b'{"n":2}'),
        values.value(b"", b'{"n":3}'),
    ],
    "server slow stream of 3": [
        values.item(b"", b'{"n":0}'),
        values.item(b"", b'{"n":1}'),
        values.value(b"", b'{"n":2}'),
    ],
    "server error object": [
        values.failure(b"", values.error_json({"status": 404, "message": "nope"}))
    ],
    "server error string": [values.failure(b"", b'"text"')],
    "server no handler": [values.no_handler(b"")],
}


@named(*ANSWERS)
def test_a_service_writes_the_same_answers(vector: dict[str, Any]) -> None:
    records = [
        values.reply_of(b"corr1", body, records=True, as_json=False)
        for body in ANSWERS[vector["what"]]
    ]

    ours = [{**plain(record), "partition": 2} for record in records]
    assert ours == [recorded(message["messages"][0]) for message in vector["produced"]]


@named(
    "server value decode",
    "server leading zero",
    without=lambda vector: vector["in_value"] is None,  # see test_bridge.py
)
def test_a_service_reads_the_same_value(vector: dict[str, Any]) -> None:
    value, saw = vector["in_value"], vector["handler_saw"]["data"]

    data = json.loads(values.data_of(value.encode()))

    # JSON has no bytes, so that they come in base64, which a payload of `bytes` takes.
    assert data == (saw["buffer_b64"] if isinstance(saw, dict) and "buffer_b64" in saw else saw)


# -- the group of clients -------------------------------------------------------


@named("assign:")
def test_partitions_for_answers_are_shared_out_as_nestjs_does_it(vector: dict[str, Any]) -> None:
    members = dict(vector["members"])

    given = assign({"t.reply": range(4)}, members)

    assert given == {each["memberId"]: each["assignment"] for each in vector["result"]}


@named("assigner protocol")
def test_a_client_introduces_itself_as_nestjs_does(vector: dict[str, Any]) -> None:
    assignor = ReplyAssignor()
    assignor.held = {"t.reply": 1}

    assert assignor.name == vector["name"]
    assert assignor.metadata(["t.reply"]).encode() == base64.b64decode(vector["metadata_b64"])


def test_every_record_is_looked_at() -> None:
    elsewhere = (  # in test_bridge.py, against a real broker
        "server retriable",
        "server request without replyPartition",
        "server correlation id but no reply topic",
        "server event handler",
        "server key json",
    )
    here = ("client", "assign", "server value decode", "server leading zero", *ANSWERS)

    assert [v["what"] for v in VECTORS if not v["what"].startswith((*here, *elsewhere))] == []
