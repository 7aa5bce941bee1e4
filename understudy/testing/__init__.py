"""Testing actors: one alone, a whole tree, stand-ins for others, faults on purpose.

The names are imported when they are first used: pytest loads the plugin of this
package in every project where it is installed, which must cost next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alone import Isolated, isolated
    from .faults import Fault, Injected, crash_on, drop, fail_start, fails, slow
    from .in_sync import BlockedActor, isolated_sync
    from .injection import Injection, inject
    from .letters import DeadLetters
    from .lifecycle import Lifecycle
    from .outside import Delivery
    from .portal import Blocked, blocking
    from .probe import Probe, Received
    from .serving import RunningService, Serve, service
    from .virtual import advance

__all__ = [
    "Blocked",
    "BlockedActor",
    "DeadLetters",
    "Delivery",
    "Fault",
    "Injected",
    "Injection",
    "Isolated",
    "Lifecycle",
    "Probe",
    "Received",
    "RunningService",
    "Serve",
    "advance",
    "blocking",
    "crash_on",
    "drop",
    "fail_start",
    "fails",
    "inject",
    "isolated",
    "isolated_sync",
    "service",
    "slow",
]

_HOMES = {
    "in_sync": "BlockedActor isolated_sync",
    "faults": "Fault Injected crash_on drop fail_start fails slow",
    "injection": "Injection inject",
    "alone": "Isolated isolated",
    "letters": "DeadLetters",
    "lifecycle": "Lifecycle",
    "outside": "Delivery",
    "portal": "Blocked blocking",
    "probe": "Probe Received",
    "serving": "RunningService Serve service",
    "virtual": "advance",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value  # asked for once only
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
