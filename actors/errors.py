"""Every error that users of the house can meet, in one place.

Each message says what happened, where, and what to do; the same facts stand in
attributes for code that decides on them. No error carries a payload's content
or a credential, so that any of them may be logged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ActorCrashed",
    "ActorStopped",
    "AskCycle",
    "AskTimeout",
    "AsyncioThreadEnded",
    "BatchFailure",
    "ConnectionLost",
    "DeathPact",
    "DeclarationError",
    "Fenced",
    "Ignore",
    "LinkBroken",
    "MailboxFull",
    "NoHandler",
    "NoResponders",
    "PayloadError",
    "RequestTimeout",
    "Retry",
    "RpcError",
    "StartFailed",
    "StartTimedOut",
    "UnderstudyError",
]


class UnderstudyError(Exception):
    """Base of every error this package raises."""


class DeclarationError(UnderstudyError, ValueError):
    """A handler, a tree or an option that can never work; found before anything starts."""


class RpcError(UnderstudyError):
    """An answer that is an error: not a crash, and safe to show to the caller.

    `error` is what goes over the wire: an object or a list is sent as it is, anything
    else becomes `{"status": "error", "message": error}` (NestJS's `RpcException`). A
    client raises it with what the service answered.
    """

    def __init__(self, error: Any) -> None:
        self.error = error
        super().__init__(error)

    @property
    def message(self) -> str:
        """The human part of the error."""
        if isinstance(self.error, Mapping) and isinstance(self.error.get("message"), str):
            return str(self.error["message"])
        return str(self.error)

    def __str__(self) -> str:
        return self.message


class PayloadError(RpcError):
    """The data of a message does not fit the type of its handler.

    `problems` holds one `(path, message)` for every wrong field; the wire shape is
    `{"status": 400, "message": ..., "errors": [{"path": ..., "message": ...}]}`.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        shown = "; ".join(f"{path}: {message}" for path, message in self.problems[:5])
        more = len(self.problems) - 5
        if more > 0:
            shown += f" (and {more} more)"
        super().__init__(
            {
                "status": 400,
                "message": f"the payload does not fit: {shown}",
                "errors": [{"path": path, "message": text} for path, text in self.problems],
            }
        )


class NoHandler(RpcError):
    """Nobody in the tree handles this pattern."""

    def __init__(self, pattern: object, where: str) -> None:
        self.pattern, self.where = pattern, where
        super().__init__(f"{where}: no handler for the pattern {pattern!r}")


class Retry(UnderstudyError):
    """Raised by a handler: not now, try this message again in `after` seconds.

    No crash and no attempt is counted; the message's age bounds how long this goes on.
    A request is never run again: its caller gets an error.
    """

    def __init__(self, reason: str = "", *, after: float = 1.0) -> None:
        self.after = after
        super().__init__(reason or f"asked to be tried again in {after:g} s")


class BatchFailure(UnderstudyError):
    """Raised by the handler of a batch: these items failed, the others are handled.

    `failed` maps indexes of the batch to what became of those items, each as if it had been
    alone: an `RpcError` rejects it, a `Retry` brings it back later, any other exception
    is a failed attempt. The actor is not restarted.
    """

    def __init__(self, failed: Mapping[int, Exception]) -> None:
        self.failed = dict(failed)
        shown = ", ".join(f"{index}: {error!r}" for index, error in list(self.failed.items())[:3])
        more = len(self.failed) - 3
        super().__init__(
            f"{len(self.failed)} items of the batch failed: {shown}"
            + (f" and {more} more" if more > 0 else "")
        )


class ActorCrashed(UnderstudyError):
    """The actor crashed on the message that was asked; `__cause__` is its exception."""

    def __init__(self, path: str, incarnation: int) -> None:
        self.path, self.incarnation = path, incarnation
        super().__init__(
            f"{path} (incarnation {incarnation}) crashed on this message. "
            "It was not tried again; the cause stands above."
        )


class ActorStopped(UnderstudyError):
    """The actor is not there (any more), so no answer can come."""

    def __init__(self, path: str, why: str = "it has stopped") -> None:
        self.path, self.why = path, why
        super().__init__(f"{path} will not answer: {why}.")


class AskTimeout(UnderstudyError, TimeoutError):
    """No answer came within `timeout` seconds; the handler may still be at work."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path, self.timeout = path, timeout
        super().__init__(
            f"{path} did not answer within {timeout:g} s; it may still be at work. "
            "Pass a longer timeout= if the work is known to take that long."
        )


class AskCycle(UnderstudyError):
    """This ask could only end by its timeout: everybody on its way waits for the next.

    `paths` are the actors, from the one that asks round to itself. Let one of them
    `tell` instead of asking, or answer before it asks.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        if len(self.paths) == 2:
            what = f"{self.paths[0]} asks itself, while it is busy with the message in hand"
        else:
            what = f"each asks the next and none can answer: {' -> '.join(self.paths)}"
        super().__init__(f"{what}. Use tell, or answer before asking (reply_later).")


class Ignore(UnderstudyError):
    """Raised by `started()`: there is nothing to do here, and that is no failure.

    The child counts as started but does not run, as after `ignore` in Erlang/OTP.
    """


class DeathPact(UnderstudyError):
    """A watched or linked actor ended, and this one has no way to be told: it ends as well.

    `how` a linked one ended; None for one that was watched.
    """

    def __init__(self, path: str, watched: str, how: str | None = None) -> None:
        self.path, self.watched, self.how = path, watched, how
        if how is None:
            text = (
                f"{path} watches {watched}, which has ended, and takes no Terminated message. "
                "Add Terminated to its Actor[...] protocol and handle it in receive."
            )
        else:
            text = (
                f"{path} is linked to {watched}, which ended: {how}. It sets trap_exits, so that "
                "it is told by a message, and takes no Exited message. Add Exited to its "
                "Actor[...] protocol and handle it in receive; or leave out trap_exits, to crash "
                "with an actor that ends abnormally; or watch instead of link."
            )
        super().__init__(text)


class LinkBroken(UnderstudyError):
    """A linked actor ended abnormally; `__cause__` is its error, if there is one."""

    def __init__(self, path: str, linked: str, how: str) -> None:
        self.path, self.linked, self.how = path, linked, how
        super().__init__(f"{path} is linked to {linked}, which ended: {how}.")


class MailboxFull(UnderstudyError):
    """The mailbox holds as many messages as it may; this one was not taken."""

    def __init__(self, path: str, capacity: int) -> None:
        self.path, self.capacity = path, capacity
        super().__init__(
            f"{path}: the mailbox is full ({capacity} messages). "
            "Await tell_wait(...) to be slowed down with it, or raise mailbox= in its child()."
        )


class Fenced(UnderstudyError):
    """A leftover of an ended incarnation (a thread, shielded code) tried to act."""

    def __init__(self, path: str, incarnation: int) -> None:
        self.path, self.incarnation = path, incarnation
        super().__init__(
            f"{path} (incarnation {incarnation}) has ended; what is left of it may not "
            "send messages or answer. End threads and shielded work with their handler."
        )


class AsyncioThreadEnded(UnderstudyError):
    """The asyncio loop that this needs has ended, by an error or together with the trio run."""

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose
        super().__init__(
            f"the asyncio loop for {purpose} has ended. The log says why; code on it must not "
            "stop its loop. The next use makes a new one."
        )


class StartFailed(UnderstudyError):
    """A child could not be started; `__cause__` is what its start raised."""

    def __init__(self, path: str, incarnation: int) -> None:
        self.path, self.incarnation = path, incarnation
        super().__init__(f"{path} (incarnation {incarnation}) could not be started.")


class StartTimedOut(UnderstudyError):
    """A child's start outlived its `start_timeout` (seconds)."""

    def __init__(self, path: str, incarnation: int, limit: float) -> None:
        self.path, self.incarnation, self.limit = path, incarnation, limit
        super().__init__(
            f"{path} (incarnation {incarnation}): started() was not done after {limit:g} s. "
            "Move slow work into a first message, or raise start_timeout= in its child()."
        )


class ConnectionLost(UnderstudyError, ConnectionError):
    """The connection ended, or could not be made, before the answer came.

    Whether the other side handled the message is not known, unless `sent` is False.
    """

    def __init__(self, where: str, why: str, *, sent: bool = True) -> None:
        self.where, self.why, self.sent = where, why, sent
        super().__init__(f"{where}: {why}.")


class NoResponders(UnderstudyError):
    """The broker says that nobody listens for this pattern; nobody has handled the message."""

    def __init__(self, where: str, pattern: object) -> None:
        self.where, self.pattern = where, pattern
        super().__init__(
            f"{where}: nobody listens for {pattern!r}. Start the service that handles it, "
            "or see whether the pattern is right."
        )


class RequestTimeout(UnderstudyError, TimeoutError):
    """A remote service did not answer within `timeout` seconds."""

    def __init__(self, where: str, pattern: object, timeout: float) -> None:
        self.where, self.pattern, self.timeout = where, pattern, timeout
        super().__init__(
            f"{where}: no answer to {pattern!r} within {timeout:g} s. "
            "The service may still be at work, or nobody handles the pattern there."
        )
