"""What an exception of a handler means: an answer, a retry, a crash...

A table from exception classes to verdicts, on an actor (`on_error = {...}`) or on
one handler (`on_error=` of its decorator). The verdict is that of the most specific
class that any table names; for the same class the handler's table goes before the
actor's, and that before what the house says by default. Pure.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from .errors import BatchFailure, DeclarationError, Retry, RpcError

__all__ = ["NO_TABLE", "OnError", "Verdict", "Word", "checked_table", "classify", "only_leaf"]

Word = Literal["answer", "retry", "reject", "crash", "stop", "escalate"]
"""What can be done about an exception.

- `answer`: the caller gets it as an `RpcError` with its text; an event or a `tell` is
  set aside. No crash.
- `retry`: as if the handler had raised `Retry`.
- `reject`: the message is refused without a crash: set aside, and a caller is told no
  more than "Internal server error".
- `crash`: the actor crashes and its supervisor decides. The default.
- `stop`: the actor crashes and is not started again.
- `escalate`: the actor crashes, and its supervisor with it.
"""

Verdict: TypeAlias = Word | Callable[[Any], Exception]
"""A word, or a function of the exception that makes (or raises) what is raised instead."""

OnError: TypeAlias = Mapping[type[BaseException], Verdict]

NO_TABLE: Final[OnError] = {}
_DEFAULTS: Final[dict[type[BaseException], Word]] = {
    RpcError: "answer",
    Retry: "retry",
    BatchFailure: "reject",
}


def classify(error: BaseException, *tables: OnError) -> tuple[Word, BaseException]:
    """The verdict on `error`, and the exception to go on with."""
    for kind in type(error).__mro__:
        for table in (*tables, _DEFAULTS):
            verdict = table.get(kind)
            if verdict is None:
                continue
            if callable(verdict):
                # By the defaults: a table must not lead to itself.
                return classify(_made(verdict, error))
            return verdict, _meant(verdict, error)
    return "crash", error


def _made(verdict: Callable[[Any], object], error: BaseException) -> BaseException:
    """What a function makes of `error`, be it by returning or by raising it."""
    try:
        made = verdict(error)
    except Exception as raised:  # noqa: BLE001  # goes on in the place of `error`
        made = raised
    if not isinstance(made, Exception):
        made = TypeError(f"on_error: {verdict!r} must make an exception, and made {made!r}")
    if made is not error and made.__cause__ is None:
        made.__cause__ = error
    return made


def _meant(verdict: Word, error: BaseException) -> BaseException:
    """The exception that says by its type what the verdict says by word."""
    if verdict == "answer" and not isinstance(error, RpcError):
        meant: Exception = RpcError(str(error) or type(error).__name__)
    elif verdict == "retry" and not isinstance(error, Retry):
        meant = Retry(f"{type(error).__name__}: {error}")
    else:
        return error
    meant.__cause__ = error
    return meant


def only_leaf(error: BaseException) -> BaseException:
    """The one exception in a group of one: a nursery in a handler wraps what it raises."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def checked_table(where: str, table: object) -> OnError:
    """`table`, if it can work; raises `DeclarationError` if it cannot."""
    if not isinstance(table, Mapping):
        raise DeclarationError(f"{where}: on_error must map exceptions to verdicts, got {table!r}.")
    for kind, verdict in table.items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise DeclarationError(f"{where}: on_error has {kind!r}, which is no exception class.")
        if not callable(verdict) and verdict not in get_args(Word):
            words = ", ".join(get_args(Word))
            raise DeclarationError(
                f"{where}: on_error says {verdict!r} for {kind.__name__}; it must be one of "
                f"{words}, or a function that makes an exception."
            )
    return table
