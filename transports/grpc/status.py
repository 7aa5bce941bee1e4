"""Errors as gRPC says them: a number, a text, and perhaps details in the trailing metadata.

An `RpcError` is what NestJS makes of an `RpcException`: an object with a `code` gives that
number, anything else is UNKNOWN (2); `details` as text goes before `message`; `metadata`
goes along. A crash is UNKNOWN, "Internal server error", for nothing of it leaves the
process. A payload that does not fit is INVALID_ARGUMENT, with google.rpc.BadRequest for
tools, and a service that cannot answer just now UNAVAILABLE.

Invariant: whatever an error holds, its status fits into the headers of HTTP/2, whose room
is small: 8 KiB are safe.

Source: `serverErrorToStatus` of @grpc/grpc-js 1.14.7; doc/statuscodes.md of gRPC.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ...actors.errors import DeclarationError, PayloadError
from .library import DecodeError
from .messages import AnyMessage, BadRequest, Status

__all__ = [
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "UNKNOWN",
    "Failure",
    "error_of",
    "failure_of",
    "headers_of",
    "metadata_of",
    "misfit",
    "unimplemented",
]

CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
_LAST: Final = 16

_DETAILS: Final = "grpc-status-details-bin"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_TEXT_LIMIT: Final = 2048
_DETAILS_LIMIT: Final = 3072
_METADATA_LIMIT: Final = 2048

_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(r"[ -~]*")
_OWN: Final = ("grpc-", "content-type", "user-agent")

Metadata = tuple[tuple[str, str | bytes], ...]


class Failure(msgspec.Struct, gc=False):
    """A status that is an error, ready to be sent."""

    code: int
    text: str
    metadata: Metadata = ()


def failure_of(error: Any) -> Failure:
    """The status of an `RpcError`'s `error`. Raises `TypeError` for impossible metadata."""
    code, text = UNKNOWN, error
    metadata: Metadata = ()
    if isinstance(error, Mapping):
        text = error.get("message", "Unknown Error")
        given = error.get("code")
        if type(given) is int and 0 < given <= _LAST:
            code = given
            details = error.get("details")
            text = details if isinstance(details, str) else text
        try:
            metadata = metadata_of(error.get("metadata") or {})
        except DeclarationError as unfit:
            raise TypeError(str(unfit)) from unfit
    shown = text if isinstance(text, str) else msgspec.json.encode(text, enc_hook=str).decode()
    return Failure(code, _short(shown), metadata)


def misfit(error: PayloadError) -> Failure:
    """The status of a payload that does not fit, every wrong field among its details."""
    text = _short(str(error.message))
    request = BadRequest()
    for path, message in error.problems:
        request.field_violations.add(field=path, description=message)
        if request.ByteSize() > _DETAILS_LIMIT:
            del request.field_violations[-1]
            break
    detail = AnyMessage(type_url=_BAD_REQUEST, value=request.SerializeToString())
    status = Status(code=INVALID_ARGUMENT, message="the payload does not fit", details=[detail])
    return Failure(INVALID_ARGUMENT, text, ((_DETAILS, status.SerializeToString()),))


def unimplemented(method: str) -> Failure:
    """The status for a method without a handler, in the words of @grpc/grpc-js."""
    text = _short(f"The server does not implement the method {method}")
    return Failure(UNIMPLEMENTED, text)


def error_of(code: int, text: str, metadata: Iterable[tuple[str, str | bytes]]) -> Any:
    """The `error` of the `RpcError` for a status: code, message, and what details it has."""
    error: dict[str, Any] = {"code": code, "message": text}
    errors = [
        {"path": violation.field, "message": violation.description}
        for key, value in metadata
        if key == _DETAILS and isinstance(value, bytes)
        for violation in _violations(value)
    ]
    if errors:
        error["errors"] = errors
    # Without a date, which is HTTP's: a status that comes alone comes in HTTP's headers.
    rest = headers_of((key, value) for key, value in metadata if key not in (_DETAILS, "date"))
    if rest:
        error["metadata"] = rest
    return error


def _violations(status: bytes) -> list[Any]:
    try:
        details = Status.FromString(status).details
        return [
            violation
            for detail in details
            if detail.type_url == _BAD_REQUEST
            for violation in BadRequest.FromString(detail.value).field_violations
        ]
    except DecodeError:
        return []  # the status itself has arrived; these are only its details


def metadata_of(headers: Mapping[str, Any]) -> Metadata:
    """Headers as metadata; the values of `-bin` keys are base64. Raises `DeclarationError`."""
    found: list[tuple[str, str | bytes]] = []
    size = 0
    for name, value in headers.items():
        key = str(name).lower()
        if not _KEY.fullmatch(key) or key.startswith("grpc-"):
            raise DeclarationError(
                f"gRPC has no metadata with the key {name!r}: letters, digits, '_', '-' and '.' "
                "only, and not beginning with grpc-."
            )
        found.append((key, _bytes(key, value) if key.endswith("-bin") else _text(key, value)))
        size += len(key) + len(found[-1][1])
    if size > _METADATA_LIMIT:
        raise DeclarationError(f"metadata of {size} bytes; {_METADATA_LIMIT} are safe to send.")
    return tuple(found)


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Metadata as headers, without what gRPC itself adds; several of one key with commas."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if key.startswith(_OWN):
            continue
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def _bytes(key: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise DeclarationError(f"the metadata {key!r} ends in -bin: it must be base64.") from None


def _text(key: str, value: Any) -> str:
    if isinstance(value, str) and _VALUE.fullmatch(value):
        return value
    raise DeclarationError(
        f"the metadata {key!r} must be printable ASCII text; a key that ends in -bin takes others."
    )


def _short(text: str) -> str:
    """As much of a text as its header may have; there each odd character takes nine bytes."""
    if len(text) > _TEXT_LIMIT:
        text = f"{text[:_TEXT_LIMIT]}..."
    text = text.encode(errors="replace").decode()
    if len(text) <= _TEXT_LIMIT // 9 or len(quote(text, safe=" ")) <= _TEXT_LIMIT:
        return text
    text = text.removesuffix("...")
    while len(quote(text, safe=" ")) > _TEXT_LIMIT:
        text = text[: len(text) * 9 // 10]
    return f"{text}..."
