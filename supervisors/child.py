"""Child specs: what a supervisor starts, and how it treats what it started.

A spec is data: it can be printed, compared, checked and used for any number of
trees. `child` specifies an actor, `Supervisor` a subtree; resources and bridges
bring their own kinds of spec.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import attrs

from ..actors.actor import Actor
from ..actors.behavior import Behavior
from ..actors.cell import Cell, CellOptions
from ..actors.errors import DeclarationError
from ..actors.incarnation import Runnable
from .delivery.intake import IntakeServices
from .strategy import Backoff, Restart, Strategy, one_for_one

__all__ = [
    "ActorSpec",
    "ChildSpec",
    "Needs",
    "Supervisor",
    "Wiring",
    "checked_name",
    "child",
    "needs",
]


@attrs.frozen
class Needs:
    """A place in a child's arguments for what the child called `name` offers."""

    name: str


def needs(name: str) -> Any:
    """Inject what another child offers: an actor's reference, a resource's object.

    `name` is looked up among the siblings, then among the siblings of the
    supervisor, and so on upwards. A resource must stand before the child that needs
    it. It is resolved anew for every incarnation.
    """
    return Needs(name)


class Wiring(Protocol):
    """What a spec gets to build its runnable: the system, and the child's place in it."""

    @property
    def path(self) -> str: ...

    @property
    def services(self) -> IntakeServices: ...

    def resolve(self, name: str) -> Any:
        """What the child `name` offers just now; raises `StartFailed` if it offers nothing."""


@attrs.frozen(kw_only=True)
class ChildSpec:
    """What all kinds of children have in common. Times in seconds.

    `restart` says when it comes back; `shutdown` how long an ordered stop may take
    before it is cancelled (0: at once, without `stopping()`); `start_timeout` how long
    its start may take. A `significant` child that ends can end its supervisor, see
    `Supervisor(auto_shutdown=...)`.
    """

    name: str
    restart: Restart = "permanent"
    shutdown: float = 5.0
    start_timeout: float = 30.0
    backoff: Backoff | None = Backoff()
    significant: bool = False

    def __attrs_post_init__(self) -> None:
        if self.restart not in get_args(Restart):
            raise DeclarationError(
                f"child {self.name!r}: restart must be permanent, transient or temporary, "
                f"got {self.restart!r}."
            )
        if not (self.shutdown >= 0 and self.start_timeout > 0):
            raise DeclarationError(
                f"child {self.name!r}: shutdown must not be negative and start_timeout must be "
                f"positive (seconds), got {self.shutdown} and {self.start_timeout}."
            )

    def build(self, wiring: Wiring) -> Runnable:
        """The runnable for one place in one tree."""
        raise TypeError(f"{type(self).__name__} is no kind of child.")

    def needed(self) -> Iterator[str]:
        """Names of the children this one needs."""
        return iter(())

    @property
    def is_ready_before_start(self) -> bool:
        """Whether what it offers (a reference) exists before it has started."""
        return False


@attrs.frozen(kw_only=True)
class ActorSpec(ChildSpec):
    """An actor. `arguments` go to its `__init__`, with `needs(...)` filled in."""

    actor: type[Actor[Any]]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}
    options: CellOptions = CellOptions()

    def build(self, wiring: Wiring) -> Cell:
        def arguments() -> tuple[tuple[Any, ...], dict[str, Any]]:
            def fill(value: Any) -> Any:
                return wiring.resolve(value.name) if isinstance(value, Needs) else value

            keywords = {name: fill(value) for name, value in self.keywords.items()}
            return tuple(fill(value) for value in self.arguments), keywords

        return Cell(wiring.path, self.actor, arguments, self.options, wiring.services)

    def needed(self) -> Iterator[str]:
        values = (*self.arguments, *self.keywords.values())
        return (value.name for value in values if isinstance(value, Needs))

    @property
    def is_ready_before_start(self) -> bool:
        return True


def child(
    actor: type[Actor[Any]],
    *arguments: Any,
    name: str | None = None,
    keywords: Mapping[str, Any] | None = None,
    restart: Restart = "permanent",
    shutdown: float = 5.0,
    start_timeout: float = 30.0,
    backoff: Backoff | None = Backoff(),
    significant: bool = False,
    mailbox: int = 1024,
    concurrency: int = 1,
    crash_grace: float = 1.0,
    max_age: float = 3600.0,
    sick_after: int = 10,
    on_sick: Literal["hold", "escalate"] = "hold",
    blame: Literal["message", "actor"] = "message",
) -> ActorSpec:
    """Specify an actor: `child(Orders, needs("repository"), concurrency=32)`.

    `arguments` and `keywords` are for its `__init__`, which runs anew for every
    incarnation. `name` is the class's name in small letters if not given. The other
    options are explained at `ChildSpec` and `CellOptions`.

    Raises `DeclarationError` for a class or an option that can never work.
    """
    Behavior.of(actor)
    for option, value, least in (
        ("mailbox", mailbox, 1),
        ("concurrency", concurrency, 1),
        ("sick_after", sick_after, 1),
        ("crash_grace", crash_grace, 0),
        ("max_age", max_age, 0),
    ):
        if not value >= least:
            raise DeclarationError(
                f"child({actor.__name__}): {option} must be at least {least}, got {value}."
            )
    _check_choices(f"child({actor.__name__})", on_sick=on_sick, blame=blame)
    return ActorSpec(
        actor=actor,
        arguments=arguments,
        keywords=dict(keywords or {}),
        name=checked_name(name or actor.__name__.lower()),
        restart=restart,
        shutdown=shutdown,
        start_timeout=start_timeout,
        backoff=backoff,
        significant=significant,
        options=CellOptions(
            mailbox=mailbox,
            concurrency=concurrency,
            crash_grace=crash_grace,
            max_age=max_age,
            sick_after=sick_after,
            on_sick=on_sick,
            blame=blame,
        ),
    )


@attrs.frozen(kw_only=True, init=False)
class Supervisor(ChildSpec):
    """A supervisor and its children, as data; the root of every tree is one.

    More than `max_restarts` restarts `within` seconds are a failure of the
    supervisor itself: it stops its children and its own supervisor decides. With
    `auto_shutdown` it ends when `any` (or `all`) of its significant children have
    ended by themselves.
    """

    children: tuple[ChildSpec, ...]
    strategy: Strategy
    max_restarts: int
    within: float
    auto_shutdown: Literal["never", "any", "all"]

    def __init__(
        self,
        name: str,
        children: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = one_for_one,
        max_restarts: int = 3,
        within: float = 5.0,
        auto_shutdown: Literal["never", "any", "all"] = "never",
        restart: Restart = "permanent",
        shutdown: float = math.inf,
        start_timeout: float = math.inf,
        backoff: Backoff | None = Backoff(),
        significant: bool = False,
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]
            name=checked_name(name),
            children=tuple(children),
            strategy=strategy,
            max_restarts=max_restarts,
            within=within,
            auto_shutdown=auto_shutdown,
            restart=restart,
            shutdown=shutdown,
            start_timeout=start_timeout,
            backoff=backoff,
            significant=significant,
        )
        self._check()

    def build(self, wiring: Wiring) -> Runnable:
        raise TypeError("A supervisor is built by the supervisor above it.")

    def needed(self) -> Iterator[str]:
        """What its subtree needs from above: names that no child of its own offers."""
        own = {spec.name for spec in self.children}
        for spec in self.children:
            yield from (name for name in spec.needed() if name not in own)

    def check_child(self, spec: ChildSpec) -> None:
        """Raises `DeclarationError` for what cannot be a child of this supervisor."""
        if not isinstance(spec, ChildSpec):
            raise DeclarationError(
                f"supervisor {self.name!r}: {spec!r} is no child spec. Wrap actors with "
                "child(...), resources with resource(...)."
            )
        if spec.significant and (self.auto_shutdown == "never" or spec.restart == "permanent"):
            raise DeclarationError(
                f"supervisor {self.name!r}: a significant child ({spec.name!r}) needs "
                "auto_shutdown='any' or 'all', and restart='transient' or 'temporary'."
            )

    def check_needs(self, path: str = "", known: frozenset[str] = frozenset()) -> None:
        """Raises `DeclarationError` for a name that no child offers, here or in the subtree.

        `known` are the names above. For the root of a tree: only there are all of them known.
        """
        path = f"{path}{self.name}"
        known |= {spec.name for spec in self.children}
        for spec in self.children:
            if isinstance(spec, Supervisor):
                spec.check_needs(f"{path}/", known)
                continue
            for name in spec.needed():
                if name not in known:
                    raise DeclarationError(
                        f"{path}/{spec.name} needs {name!r}, but no sibling of it or of a "
                        "supervisor above it has that name."
                    )

    def _check(self) -> None:
        if not isinstance(self.strategy, Strategy):
            raise DeclarationError(
                f"supervisor {self.name!r}: strategy must be one_for_one, one_for_all or "
                f"rest_for_one, got {self.strategy!r}."
            )
        _check_choices(f"supervisor {self.name!r}", auto_shutdown=self.auto_shutdown)
        seen: set[str] = set()
        for spec in self.children:
            self.check_child(spec)
            if spec.name in seen:
                raise DeclarationError(
                    f"supervisor {self.name!r} has two children called {spec.name!r}. "
                    "Give one of them another name=."
                )
            seen.add(spec.name)
        if not (self.max_restarts >= 0 and self.within > 0):
            raise DeclarationError(
                f"supervisor {self.name!r}: max_restarts must not be negative and within "
                f"must be positive, got {self.max_restarts} and {self.within}."
            )
        self._check_order()

    def _check_order(self) -> None:
        position = {spec.name: index for index, spec in enumerate(self.children)}
        for index, spec in enumerate(self.children):
            for name in spec.needed():
                at = position.get(name)
                if at is None or at < index:
                    continue
                if at == index or not self.children[at].is_ready_before_start:
                    raise DeclarationError(
                        f"supervisor {self.name!r}: {spec.name!r} needs {name!r}, which starts "
                        f"later. Put {name!r} before {spec.name!r}."
                    )


_CHOICES = {
    "auto_shutdown": ("never", "any", "all"),
    "blame": ("message", "actor"),
    "on_sick": ("hold", "escalate"),
}


def _check_choices(where: str, **options: str) -> None:
    for option, value in options.items():
        if value not in _CHOICES[option]:
            choices = ", ".join(map(repr, _CHOICES[option]))
            raise DeclarationError(f"{where}: {option} must be one of {choices}, got {value!r}.")


def checked_name(name: str) -> str:
    if not name or "/" in name or name.strip() != name:
        raise DeclarationError(
            f"{name!r} cannot name a child: a name is not empty and has no slash and no "
            "space around it."
        )
    return name
