"""Child specs: what a supervisor starts, and how it treats what it started.

A spec is data: it can be printed, compared, checked and used for any number of
trees. `child` specifies an actor, `Supervisor` a subtree; resources and bridges
bring their own kinds of spec.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, get_args

import attrs

from ..actors.actor import Actor
from ..actors.behavior import Behavior
from ..actors.cell import Cell, CellOptions
from ..actors.errors import DeclarationError
from ..actors.incarnation import Runnable
from ..actors.keys import KeyOf
from ..actors.mailbox import Overflow
from ..actors.retry import RetryPolicy
from .delivery.intake import IntakeServices
from .strategy import Backoff, Restart, Strategy, one_for_one

__all__ = [
    "ActorSpec",
    "Arguments",
    "ChildSpec",
    "Needs",
    "Supervisor",
    "Wiring",
    "checked_name",
    "child",
    "needs",
]

A = TypeVar("A", bound=Actor[Any])
A_co = TypeVar("A_co", covariant=True)  # no bound: actors of two kinds must still join

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What an `__init__` is called with: by position, and by name."""

_NO_KEYWORDS: Final[Mapping[str, Any]] = {}
_NO_ARGUMENTS: Final[Arguments] = ((), {})
_BACKOFF: Final = Backoff()


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

    def arguments(self) -> Arguments:
        """What the spec gives to a new incarnation, with `needs(...)` filled in."""
        ...


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
    backoff: Backoff | None = _BACKOFF
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

    def resolved(self, resolve: Callable[[str], Any]) -> Arguments:
        """Its arguments, with what `resolve` says for each `needs(...)`."""
        return _NO_ARGUMENTS

    def needed(self) -> Iterator[str]:
        """Names of the children this one needs."""
        return iter(())

    @property
    def is_ready_before_start(self) -> bool:
        """Whether what it offers (a reference) exists before it has started."""
        return False


@attrs.frozen(kw_only=True)
class ActorSpec(ChildSpec, Generic[A_co]):
    """An actor. `arguments` go to its `__init__`, with `needs(...)` filled in."""

    actor: type[A_co]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = _NO_KEYWORDS
    options: CellOptions = CellOptions()

    def build(self, wiring: Wiring) -> Cell:
        actor: Any = self.actor
        return Cell(wiring.path, actor, wiring.arguments, self.options, wiring.services)

    def resolved(self, resolve: Callable[[str], Any]) -> Arguments:
        def fill(value: Any) -> Any:
            return resolve(value.name) if isinstance(value, Needs) else value

        keywords = {name: fill(value) for name, value in self.keywords.items()}
        return tuple(fill(value) for value in self.arguments), keywords

    def needed(self) -> Iterator[str]:
        values = (*self.arguments, *self.keywords.values())
        return (value.name for value in values if isinstance(value, Needs))

    @property
    def is_ready_before_start(self) -> bool:
        return True


def child(
    actor: type[A],
    *arguments: Any,
    name: str | None = None,
    keywords: Mapping[str, Any] | None = None,
    restart: Restart = "permanent",
    shutdown: float = 5.0,
    start_timeout: float = 30.0,
    backoff: Backoff | None = _BACKOFF,
    significant: bool = False,
    mailbox: int = 1024,
    overflow: Overflow = "wait",
    concurrency: int = 1,
    key: str | KeyOf | None = None,
    crash_grace: float = 1.0,
    max_age: float = 3600.0,
    sick_after: int = 10,
    on_sick: Literal["hold", "escalate"] = "hold",
    blame: Literal["message", "actor"] = "message",
    passivate_after: float | None = None,
    retry: RetryPolicy | None = None,
) -> ActorSpec[A]:
    """Specify an actor: `child(Orders, needs("repository"), concurrency=32)`.

    `arguments` and `keywords` are for its `__init__`, which runs anew for every
    incarnation. `name` is the class's name in small letters if not given. The other
    options are explained at `ChildSpec` and `CellOptions`.

    Raises `DeclarationError` for a class or an option that can never work.
    """
    batched = Behavior.of(actor).batched
    where = f"child({actor.__name__})"
    if isinstance(mailbox, int) and mailbox < batched:
        raise DeclarationError(
            f"{where}: batches of {batched} can never fill with mailbox={mailbox}. "
            f"Give it mailbox={batched} at least."
        )
    _check_least(where, 1, mailbox=mailbox, concurrency=concurrency, sick_after=sick_after)
    _check_least(where, 0, crash_grace=crash_grace, max_age=max_age)
    if passivate_after is not None:
        _check_least(where, 0, passivate_after=passivate_after)
    _check_choices(where, on_sick=on_sick, blame=blame, overflow=overflow)
    return ActorSpec(
        actor=actor,
        arguments=arguments,
        keywords=dict(keywords) if keywords else _NO_KEYWORDS,
        name=checked_name(name or actor.__name__.lower()),
        restart=restart,
        shutdown=shutdown,
        start_timeout=start_timeout,
        backoff=backoff,
        significant=significant,
        options=_options(
            mailbox=mailbox,
            overflow=overflow,
            concurrency=concurrency,
            key=key,
            crash_grace=crash_grace,
            max_age=max_age,
            sick_after=sick_after,
            on_sick=on_sick,
            blame=blame,
            passivate_after=passivate_after,
            retry=retry,
        ),
    )


@lru_cache(maxsize=256)
def _options(**options: Any) -> CellOptions:
    """One record for all actors with the same options: there may be very many of them."""
    return CellOptions(**options)


@attrs.frozen(kw_only=True, init=False)
class Supervisor(ChildSpec):
    """A supervisor and its children, as data; the root of every tree is one.

    More than `max_restarts` restarts `within` seconds are a failure of the
    supervisor itself: it stops its children and its own supervisor decides. With
    `auto_shutdown` it ends when `any` (or `all`) of its significant children have
    ended by themselves. It takes `max_children` at most, those that are started at run
    time included. With `stop_together` it tells all of them to stop at once, not one
    after the other: for children by the thousand that do not know each other.
    """

    children: tuple[ChildSpec, ...]
    strategy: Strategy
    max_restarts: int
    within: float
    auto_shutdown: Literal["never", "any", "all"]
    max_children: int | None
    stop_together: bool

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
        backoff: Backoff | None = _BACKOFF,
        significant: bool = False,
        max_children: int | None = None,
        stop_together: bool = False,
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
            max_children=max_children,
            stop_together=stop_together,
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
        self._check_limits()
        self._check_order()

    def _check_limits(self) -> None:
        most = self.max_children
        if most is not None and most < max(1, len(self.children)):
            raise DeclarationError(
                f"supervisor {self.name!r}: max_children must be positive and not less than "
                f"the {len(self.children)} children declared, got {most}."
            )
        if self.stop_together and self.strategy is not one_for_one:
            raise DeclarationError(
                f"supervisor {self.name!r}: stop_together is for children that do not depend on "
                f"each other, so only with one_for_one, got {self.strategy.value}."
            )

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
    "overflow": get_args(Overflow),
}


def _check_least(where: str, least: int, **options: float) -> None:
    for option, value in options.items():
        if not value >= least:
            raise DeclarationError(f"{where}: {option} must be at least {least}, got {value}.")


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
