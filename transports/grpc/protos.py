"""`.proto` files, loaded at run time: their services, methods and message types.

protoc makes descriptors of them, as a program of its own: its words can be shown, its
crash is not ours, and its memory goes with it. Files are compiled again when they have
changed; what they import is taken to stay as it is.

A method is named by the route of its handler: `Math.Sum`, or `interop.Math.Sum` with its
package, as in NestJS's `@GrpcMethod("Math", "Sum")`.

Invariant: each load has a pool of descriptors of its own, so the files of two services in
one process may say different things under one name.
"""

import difflib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import attrs

from ...actors.errors import DeclarationError
from ...actors.pattern import Pattern, route_of
from .library import Descriptor, descriptor_pb2, descriptor_pool, message_factory
from .options import ProtoOptions

__all__ = ["Protos", "Rpc", "load"]


@attrs.frozen(eq=False)
class Rpc:
    """One method of a service; `request` and `answer` are the classes of its messages."""

    path: str
    service: str
    name: str
    request: Any
    answer: Any
    streams_in: bool
    streams_out: bool

    @property
    def full_route(self) -> str:
        return f"{self.service}.{self.name}"

    @property
    def route(self) -> str:
        return f"{self.service.rpartition('.')[2]}.{self.name}"


class Protos:
    """The methods of the services that are meant, by path and by route."""

    def __init__(self, where: str, pool: Any, services: Iterable[Descriptor]) -> None:
        self.pool = pool
        self.by_path: dict[str, Rpc] = {}
        self.services: list[str] = []
        self._where = where
        self._by_route: dict[str, list[Rpc]] = {}
        for service in services:
            self.services.append(service.full_name)
            for method in service.methods:
                self._add(service.full_name, method)

    def _add(self, service: str, method: Descriptor) -> None:
        rpc = Rpc(
            f"/{service}/{method.name}",
            service,
            method.name,
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
        self.by_path[rpc.path] = rpc
        for route in {rpc.route, rpc.full_route}:
            self._by_route.setdefault(route, []).append(rpc)

    def find(self, pattern: Pattern) -> Rpc:
        """The method that a caller means; raises `DeclarationError` if there is not just one."""
        route = route_of(pattern)
        found = self._by_route.get(route, ())
        if len(found) != 1:
            self.refuse(f"the pattern {route!r}", route)
        return found[0]

    def check(self, route: str, handler: str) -> None:
        """Refuse a handler's route that means a service here and no method of it.

        Other routes are other transports'. Raises `DeclarationError`.
        """
        service = route.rpartition(".")[0]
        known = {name for full in self.services for name in (full, full.rpartition(".")[2])}
        if service in known and len(self._by_route.get(route, ())) != 1:
            self.refuse(f"{handler} handles {route!r}, which", route)

    def refuse(self, what: str, route: str) -> NoReturn:
        several = self._by_route.get(route, ())
        if several:
            paths = " or ".join(rpc.full_route for rpc in several)
            hint = f"could be {paths}; write it with its package"
        else:
            near = difflib.get_close_matches(route, self._by_route, n=1)
            known = ", ".join(sorted(rpc.route for rpc in self.by_path.values())) or "none"
            hint = "is no method of the .proto. "
            hint += f"Did you mean {near[0]!r}?" if near else f"There are: {known}"
        raise DeclarationError(f"{self._where}: {what} {hint}.")


def load(where: str, options: ProtoOptions) -> Protos:
    """Compile the files that the options name. Raises `DeclarationError` with protoc's words."""
    if not options.proto:
        raise DeclarationError(
            f'{where}: name the .proto files of the service: proto="shop.proto", package="shop". '
            'Only dialect="nestrs" needs none.'
        )
    files = [Path(name).expanduser().resolve() for name in options.proto]
    for file in files:
        if not file.is_file():
            raise DeclarationError(f"{where}: there is no file {file}.")
    folders = [Path(name).expanduser().resolve() for name in options.include]
    folders = list(dict.fromkeys([*folders, *(file.parent for file in files)]))
    state = tuple((str(file), file.stat().st_mtime_ns) for file in files)
    try:
        described, names = _compiled(state, tuple(map(str, folders)))
    except _Refused as error:
        raise DeclarationError(f"{where}: protoc refuses the .proto:\n{error}") from None
    pool = descriptor_pool.DescriptorPool()
    for file_proto in descriptor_pb2.FileDescriptorSet.FromString(described).file:
        pool.Add(file_proto)
    services = [
        service
        for name in names
        for service in pool.FindFileByName(name).services_by_name.values()
        if not options.package or _is_in(service.full_name, options.package)
    ]
    if not services:
        packages = ", ".join(options.package) or "any package"
        raise DeclarationError(f"{where}: the .proto has no service in {packages}.")
    return Protos(where, pool, services)


def _is_in(service: str, packages: tuple[str, ...]) -> bool:
    return any(service.startswith(f"{package}.") for package in packages)


class _Refused(Exception):
    """protoc's own words."""


@lru_cache(maxsize=64)
def _compiled(
    state: tuple[tuple[str, int], ...], folders: tuple[str, ...]
) -> tuple[bytes, tuple[str, ...]]:
    """The descriptors of files in a certain state, imported ones first, and their own names."""
    files = [name for name, _ in state]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        line = [sys.executable, "-m", "grpc_tools.protoc", "--include_imports"]
        line += [f"--descriptor_set_out={out}", *(f"-I{path}" for path in folders), *files]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _Refused((done.stderr or done.stdout).strip()[-2000:])
        described = out.read_bytes()
    return described, tuple(_virtual(name, folders) for name in files)


def _virtual(name: str, folders: tuple[str, ...]) -> str:
    """A file as protoc names it: from the first folder that it lies in."""
    file = Path(name)
    return next(str(file.relative_to(f)) for f in folders if file.is_relative_to(f))
