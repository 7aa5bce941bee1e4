"""Supervised actor services that speak the wire formats of NestJS microservices.

The house has three floors, and imports go down only: `actors` (one actor and its
messages), `supervisors` (trees of them, restarts, delivery, running), `transports`
(bridges and clients). This file is the roof: the public names, each imported from
its floor when it is first used, so that `import understudy` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from msgspec import UNSET

    from .actors.actor import Actor, Request
    from .actors.asyncio_code import asyncio_call, trio_call
    from .actors.context import MessageContext
    from .actors.deferred import Reply
    from .actors.errors import (
        ActorCrashed,
        ActorStopped,
        AskCycle,
        AskTimeout,
        AsyncioThreadEnded,
        BatchFailure,
        ConnectionLost,
        DeathPact,
        DeclarationError,
        Fenced,
        Ignore,
        LinkBroken,
        MailboxFull,
        NoHandler,
        NoResponders,
        PayloadError,
        RequestTimeout,
        Retry,
        RpcError,
        StartFailed,
        StartTimedOut,
        UnderstudyError,
    )
    from .actors.handlers import event_pattern, message_pattern
    from .actors.incarnation import SupervisorGaveUp
    from .actors.ref import Ref
    from .actors.retry import RetryPolicy
    from .actors.watching import Exited, Terminated
    from .supervisors.child import Supervisor, child, needs
    from .supervisors.delivery.store import MemoryStore, SQLiteStore
    from .supervisors.pool import pool
    from .supervisors.resource import resource
    from .supervisors.run import run
    from .supervisors.story import Story
    from .supervisors.strategy import Backoff, one_for_all, one_for_one, rest_for_one
    from .supervisors.supervisor import ChildEscalated
    from .supervisors.system import System, running
    from .transports.bridge import serve
    from .transports.client import Client, connect

__all__ = [
    "UNSET",
    "Actor",
    "ActorCrashed",
    "ActorStopped",
    "AskCycle",
    "AskTimeout",
    "AsyncioThreadEnded",
    "Backoff",
    "BatchFailure",
    "ChildEscalated",
    "Client",
    "ConnectionLost",
    "DeathPact",
    "DeclarationError",
    "Exited",
    "Fenced",
    "Ignore",
    "LinkBroken",
    "MailboxFull",
    "MemoryStore",
    "MessageContext",
    "NoHandler",
    "NoResponders",
    "PayloadError",
    "Ref",
    "Reply",
    "Request",
    "RequestTimeout",
    "Retry",
    "RetryPolicy",
    "RpcError",
    "SQLiteStore",
    "StartFailed",
    "StartTimedOut",
    "Story",
    "Supervisor",
    "SupervisorGaveUp",
    "System",
    "Terminated",
    "UnderstudyError",
    "__version__",
    "asyncio_call",
    "child",
    "connect",
    "event_pattern",
    "message_pattern",
    "needs",
    "one_for_all",
    "one_for_one",
    "pool",
    "resource",
    "rest_for_one",
    "run",
    "running",
    "serve",
    "trio_call",
]

_ERRORS = (
    "ActorCrashed ActorStopped AskCycle AskTimeout AsyncioThreadEnded BatchFailure ConnectionLost "
    "DeathPact DeclarationError Fenced Ignore LinkBroken MailboxFull NoHandler NoResponders "
    "PayloadError RequestTimeout Retry RpcError StartFailed StartTimedOut UnderstudyError"
)
_HOMES = {
    ".actors.actor": "Actor Request",
    ".actors.asyncio_code": "asyncio_call trio_call",
    ".actors.context": "MessageContext",
    ".actors.deferred": "Reply",
    ".actors.errors": _ERRORS,
    ".actors.handlers": "event_pattern message_pattern",
    ".actors.incarnation": "SupervisorGaveUp",
    ".actors.ref": "Ref",
    ".actors.retry": "RetryPolicy",
    ".actors.watching": "Exited Terminated",
    ".supervisors.child": "Supervisor child needs",
    ".supervisors.delivery.store": "MemoryStore SQLiteStore",
    ".supervisors.pool": "pool",
    ".supervisors.resource": "resource",
    ".supervisors.run": "run",
    ".supervisors.story": "Story",
    ".supervisors.strategy": "Backoff one_for_all one_for_one rest_for_one",
    ".supervisors.supervisor": "ChildEscalated",
    ".supervisors.system": "System running",
    ".transports.bridge": "serve",
    ".transports.client": "Client connect",
    "msgspec": "UNSET",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is not None:
        value = getattr(import_module(module, __name__), name)
    elif name == "__version__":
        value = import_module("importlib.metadata").version(__name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # asked for once only
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
