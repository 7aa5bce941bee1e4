"""grpcio and protobuf, as this transport uses them: loaded with the transport and not before.

They have no type hints, so every import of theirs stands here and what they give is `Any`.
Generated modules (health, reflection) are used as their packages ship them.
"""

from typing import Any, TypeAlias

from ...actors.errors import DeclarationError

try:
    import grpc  # type: ignore[import-untyped]
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.protobuf.message import (
        Message as ProtobufMessage,
    )
    from grpc import aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
    from grpc_health.v1._async import HealthServicer  # type: ignore[import-untyped]
    from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
except ImportError as error:
    raise DeclarationError(
        "grpc:// needs grpcio, grpcio-tools, grpcio-health-checking, grpcio-reflection and "
        "protobuf, which are not all installed: pip install 'understudy[grpc]'"
    ) from error

__all__ = [
    "EOF",
    "STATUS",
    "DecodeError",
    "Descriptor",
    "HealthServicer",
    "Message",
    "ProtobufMessage",
    "aio",
    "descriptor_pb2",
    "descriptor_pool",
    "grpc",
    "health_pb2",
    "health_pb2_grpc",
    "message_factory",
    "reflection",
]

Descriptor: TypeAlias = Any
"""A protobuf descriptor, of a message or a field."""

Message: TypeAlias = Any
"""A protobuf message."""

EOF: Any = getattr(aio, "EOF")  # noqa: B009  # pyright's stubs have no such name
"""What reading gives after the last message of a stream."""

STATUS = {status.value[0]: status for status in grpc.StatusCode}
"""gRPC's own name for each number of a status."""
