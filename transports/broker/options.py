"""What all brokers' options have in common, TLS among it."""

import ssl
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, in_

from ...actors.errors import DeclarationError

__all__ = ["BrokerClientOptions", "BrokerOptions", "TlsOptions", "tls_context"]

Dialect = Literal["nest", "nestrs"]


@attrs.frozen(kw_only=True)
class TlsOptions:
    """TLS to a broker: a ready `tls` context, or files in PEM.

    `tls_ca` are the authorities to trust instead of the system's; `tls_cert` and
    `tls_key` are shown to a broker that asks for them.
    """

    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class BrokerOptions(TlsOptions):
    """Options of every bridge to a broker. Times in seconds.

    `in_flight` messages are received and not finished at most. Between two attempts to
    connect lie `reconnect_max` at most, and one takes `connect_timeout`. A broker that
    says nothing for `heartbeat` is asked, and given up after as long again.
    Identities of the last `remember` settled messages are kept, so that one that comes
    again is flagged as redelivered, or with `drop_duplicates` not run again at all.
    After `max_deliveries` of a message by the broker without an end it is a dead letter.
    """

    dialect: Dialect = attrs.field(default="nest", validator=in_(("nest", "nestrs")))
    in_flight: int = attrs.field(default=256, validator=gt(0))
    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    reconnect_max: float = attrs.field(default=5.0, validator=gt(0))
    heartbeat: float = attrs.field(default=5.0, validator=gt(0))
    remember: int = attrs.field(default=65536, validator=ge(0))
    drop_duplicates: bool = False
    max_deliveries: int = attrs.field(default=10, validator=gt(0))


@attrs.frozen(kw_only=True)
class BrokerClientOptions(TlsOptions):
    """Options of every client of a broker. Times in seconds.

    The first connection is tried for `patience`; `emit` and `stream` wait for a lost one
    for `connect_timeout`. A stream may be `credit` items ahead of its reader.
    """

    dialect: Dialect = attrs.field(default="nest", validator=in_(("nest", "nestrs")))
    connect_timeout: float = attrs.field(default=5.0, validator=gt(0))
    patience: float = attrs.field(default=0.0, validator=ge(0))
    reconnect_max: float = attrs.field(default=5.0, validator=gt(0))
    heartbeat: float = attrs.field(default=5.0, validator=gt(0))


def tls_context(options: TlsOptions, where: str, *, wanted: bool) -> ssl.SSLContext | None:
    """The context that the options ask for; None without TLS.

    Raises `DeclarationError` for files that cannot be read.
    """
    if options.tls is not None:
        return options.tls
    if not (wanted or options.tls_ca or options.tls_cert):
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        raise DeclarationError(
            f"{where}: TLS cannot be set up: {_reason(error)}. tls_ca, tls_cert and tls_key "
            "name files in PEM."
        ) from error
    return context


def _reason(error: Any) -> str:
    return getattr(error, "strerror", None) or str(error)
