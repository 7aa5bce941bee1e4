"""What can be set on either end of a gRPC connection, and how gRPC's core is told."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
from attrs.validators import ge, gt, in_

__all__ = [
    "DEFAULT_PORT",
    "GrpcClientOptions",
    "GrpcOptions",
    "ProtoOptions",
    "client_arguments",
    "server_arguments",
]

DEFAULT_PORT: Final = 5000
"""NestJS's."""


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """One text with commas (as a URL has it), or several texts."""
    texts = value.split(",") if isinstance(value, str) else value
    return tuple(str(text) for text in texts if text)


@attrs.frozen(kw_only=True)
class ProtoOptions:
    """What is spoken, and TLS.

    `proto` are `.proto` files, `include` folders that they import from beside their own;
    of their services those of `package`s are meant, of all without one. The nestrs dialect
    needs none of these. Plain dictionaries have keys in camelCase, with `keep_case` as the
    `.proto` writes them. `tls_ca`, `tls_cert` and `tls_key` are files in PEM.
    """

    proto: Any = attrs.field(default=(), converter=_texts)
    package: Any = attrs.field(default=(), converter=_texts)
    include: Any = attrs.field(default=(), converter=_texts)
    keep_case: bool = False
    dialect: Literal["nest", "nestrs"] = attrs.field(
        default="nest", validator=in_(("nest", "nestrs"))
    )
    message_limit: int = attrs.field(default=4 * 1024 * 1024, validator=gt(0))
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class GrpcOptions(ProtoOptions):
    """Options of a gRPC bridge. Sizes in bytes, times in seconds, 0 for "no limit" of a time.

    `in_flight` calls are handled at once, further ones wait; more than `max_calls` at all
    are refused. `tls_ca` demands a certificate of every caller. A connection that says
    nothing for `keepalive` is asked, and given up after `keepalive_timeout`; one without
    calls ends after `max_idle`, any one after `max_age`, with `max_age_grace` for its calls.
    """

    in_flight: int = attrs.field(default=1024, validator=gt(0))
    max_calls: int = attrs.field(default=4096, validator=gt(0))
    health: bool = True
    reflection: bool = False
    keepalive: float = attrs.field(default=30.0, validator=ge(0))
    keepalive_timeout: float = attrs.field(default=10.0, validator=gt(0))
    max_idle: float = attrs.field(default=0.0, validator=ge(0))
    max_age: float = attrs.field(default=0.0, validator=ge(0))
    max_age_grace: float = attrs.field(default=0.0, validator=ge(0))


@attrs.frozen(kw_only=True)
class GrpcClientOptions(ProtoOptions):
    """Options of a gRPC client. Sizes in bytes, times in seconds.

    The first connection is tried for `patience`, each attempt for `connect_timeout`; a
    lost one is made again, with at most `reconnect_max` between two attempts. An event is
    answered within `emit_timeout`. A stream may be `credit` messages ahead of who reads it.
    With `keepalive` a server that says nothing for so long is asked: many refuse to be
    asked often, so it is off (0).
    """

    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    patience: float = attrs.field(default=0.0, validator=ge(0))
    reconnect_max: float = attrs.field(default=5.0, validator=gt(0))
    emit_timeout: float = attrs.field(default=5.0, validator=gt(0))
    credit: int = attrs.field(default=64, validator=gt(0))
    keepalive: float = attrs.field(default=0.0, validator=ge(0))


Arguments = list[tuple[str, int]]


def server_arguments(options: GrpcOptions) -> Arguments:
    """The channel arguments of gRPC's core for a server."""
    arguments = [
        ("grpc.max_receive_message_length", options.message_limit),
        ("grpc.max_send_message_length", -1),
        # Two processes on one port would each get some of the calls, without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_timeout_ms", _ms(options.keepalive_timeout)),
        # Callers may ask for a sign of life, too; by default once in five minutes only.
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ]
    times = {
        "grpc.keepalive_time_ms": options.keepalive,
        "grpc.max_connection_idle_ms": options.max_idle,
        "grpc.max_connection_age_ms": options.max_age,
        "grpc.max_connection_age_grace_ms": options.max_age_grace,
    }
    return arguments + [(name, _ms(time)) for name, time in times.items() if time]


def client_arguments(options: GrpcClientOptions) -> Arguments:
    """The channel arguments of gRPC's core for a client."""
    arguments = [
        ("grpc.max_receive_message_length", options.message_limit),
        ("grpc.max_send_message_length", -1),
        # Not the connection that others of this process have to the same address.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _ms(options.connect_timeout)),
        ("grpc.max_reconnect_backoff_ms", max(100, _ms(options.reconnect_max))),
        ("grpc.enable_retries", 0),  # a request is never sent twice by us
        ("grpc.enable_http_proxy", 0),
    ]
    if options.keepalive:
        arguments += [
            ("grpc.keepalive_time_ms", _ms(options.keepalive)),
            ("grpc.keepalive_timeout_ms", _ms(options.keepalive)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return arguments


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
