"""The messages of formats that are not the user's: nestrs's service, and rich errors.

They are described here in Python, for running protoc takes a tenth of a second.

Source: nestrs-microservices 0.3.8 (proto/nestrs_microservice.proto), googleapis
(google/rpc/status.proto, google/rpc/error_details.proto).
"""

from typing import Any, Final

from .library import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "EMIT",
    "SEND",
    "AnyMessage",
    "BadRequest",
    "EmitRequest",
    "EmitResponse",
    "SendRequest",
    "SendResponse",
    "Status",
]

SEND: Final = "/nestrs.microservices.Microservice/Send"
EMIT: Final = "/nestrs.microservices.Microservice/Emit"

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_KINDS: Final = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
}


def _file(name: str, package: str, messages: dict[str, list[str]]) -> dict[str, Any]:
    """Message classes of one file; fields as a `.proto` writes them, numbered from 1."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for number, text in enumerate(fields, 1):
            *repeated, kind, field_name = text.split()
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if kind in _KINDS:
                field.type = _KINDS[kind]
            else:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindFileByName(name).message_types_by_name
    return {name: message_factory.GetMessageClass(found[name]) for name in messages}


_NESTRS: Final = _file(
    "nestrs_microservice.proto",
    "nestrs.microservices",
    {
        "SendRequest": ["string pattern", "bytes payload_json"],
        "SendResponse": [
            "bool ok",
            "bytes payload_json",
            "string error_message",
            "bytes error_details_json",
            "bool has_error_details",
        ],
        "EmitRequest": ["string pattern", "bytes payload_json"],
        "EmitResponse": [
            "bool ok",
            "string error_message",
            "bytes error_details_json",
            "bool has_error_details",
        ],
    },
)
SendRequest: Final = _NESTRS["SendRequest"]
SendResponse: Final = _NESTRS["SendResponse"]
EmitRequest: Final = _NESTRS["EmitRequest"]
EmitResponse: Final = _NESTRS["EmitResponse"]

_RPC: Final = _file(
    "google_rpc.proto",
    "google.rpc",
    {
        # google.protobuf.Any, which has the same form under any name.
        "Any": ["string type_url", "bytes value"],
        "Status": ["int32 code", "string message", "repeated Any details"],
        "FieldViolation": ["string field", "string description"],
        "BadRequest": ["repeated FieldViolation field_violations"],
    },
)
AnyMessage: Final = _RPC["Any"]
Status: Final = _RPC["Status"]
BadRequest: Final = _RPC["BadRequest"]
