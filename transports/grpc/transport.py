"""gRPC: services of `.proto` files, as NestJS and everybody else has them, and nestrs's.

Promise: a call is answered, or its caller knows that there is no answer; it is never run
again by us. Install with `understudy[grpc]`.
"""

from collections.abc import Mapping
from typing import Any

from ...actors.errors import DeclarationError
from ...supervisors.child import Wiring
from ..options import parse_options, parse_url, shown
from .bridge import GrpcBridge
from .channel import client_credentials
from .client import GrpcClient, NestrsClient, TypedClient
from .nestrs import NestrsBridge
from .options import DEFAULT_PORT, GrpcClientOptions, GrpcOptions, ProtoOptions
from .protos import Protos, load
from .server import server_credentials
from .typed import TypedBridge

__all__ = ["bridge", "check", "client"]


def check(url: str, options: Mapping[str, Any], *, serving: bool) -> None:
    """Raise `DeclarationError` for a URL or options that can never work, `.proto`s among them."""
    if not parse_url(url).hostname:
        raise DeclarationError(f"{shown(url)} has no host; one looks like grpc://127.0.0.1:5000.")
    if serving:
        found = parse_options(GrpcOptions, url, options)
        if _is_tls(url, found) and not (found.tls_cert and found.tls_key):
            raise DeclarationError(
                f"{shown(url)}: a server needs tls_cert and tls_key for TLS, files in PEM."
            )
        server_credentials(shown(url), found)
        _protos(url, found)
    else:
        given = parse_options(GrpcClientOptions, url, options)
        client_credentials(shown(url), given, wanted=_is_tls(url, given))
        _protos(url, given)


def bridge(url: str, options: Mapping[str, Any], wiring: Wiring) -> GrpcBridge:
    """A listener; port 0 takes a free one, the `Started` notice says which."""
    host, port = _address(url)
    found = parse_options(GrpcOptions, url, options)
    protos = _protos(url, found)
    if protos is None:
        return NestrsBridge(host, port, found, wiring)
    return TypedBridge(host, port, found, wiring, protos)


def client(url: str, options: Mapping[str, Any]) -> GrpcClient:
    """A client, not yet connected."""
    host, port = _address(url)
    found = parse_options(GrpcClientOptions, url, options)
    protos = _protos(url, found)
    wanted = _is_tls(url, found)
    if protos is None:
        return NestrsClient(host, port, found, tls=wanted)
    return TypedClient(host, port, found, tls=wanted, protos=protos)


def _protos(url: str, options: ProtoOptions) -> Protos | None:
    return None if options.dialect == "nestrs" else load(shown(url), options)


def _is_tls(url: str, options: ProtoOptions) -> bool:
    return parse_url(url).scheme == "grpcs" or bool(options.tls_cert or options.tls_ca)


def _address(url: str) -> tuple[str, int]:
    parts = parse_url(url)
    return parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
