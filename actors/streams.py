"""Handing out what a streaming handler yields, and saying which item is the last.

Owns the stepping of the generator. How far it may be ahead of its caller, and when
that has left, is its receipt's business.
"""

import types
from collections.abc import AsyncGenerator, Generator
from typing import Any

import trio
from msgspec import UNSET

from .envelope import Departing, Receipt

__all__ = ["hand_out"]


async def hand_out(items: AsyncGenerator[Any, None], receipt: Receipt | None) -> Any:
    """Hand out what a generator yields, and say of the last item that it is the last.

    Each item is kept back for as long as the generator runs on without waiting:
    only then is it known whether it was the last one (NestJS marks it so). Between
    the generator's first step and its wait nothing may be awaited: trio is
    promised that the task goes to sleep where the generator said so.
    """
    try:
        with trio.CancelScope() as scope:
            if isinstance(receipt, Departing):
                receipt.on_leave(scope.cancel)
            step = await _advance(items)
            while not step.done:
                if receipt is None:
                    step = await _advance(items)
                    continue
                await receipt.ready()
                if not receipt.open:
                    break
                item, step = step.value, _try_to_advance(items)
                receipt.item(item, last=step.done)
                if step.pending is not None:
                    step = await _finish(step)
                if step.error is not None:
                    raise step.error
    finally:
        # Outside the scope: a generator left at a yield may await in its clean-up.
        await items.aclose()
    return UNSET


class _Step:
    """What a generator did: an item, its end, an error, or the wait before one of these."""

    __slots__ = ("done", "error", "pending", "trap", "value")

    def __init__(
        self,
        value: Any = None,
        *,
        done: bool = False,
        error: BaseException | None = None,
        pending: Any = None,
        trap: Any = None,
    ) -> None:
        self.value, self.done, self.error = value, done, error
        self.pending, self.trap = pending, trap


async def _advance(items: AsyncGenerator[Any, None]) -> _Step:
    try:
        return _Step(await anext(items))
    except StopAsyncIteration:
        return _Step(done=True)


def _try_to_advance(items: AsyncGenerator[Any, None]) -> _Step:
    """Run a generator up to its next item, its end or its first wait."""
    pending = anext(items).__await__()
    try:
        trap = next(pending)
    except StopIteration as stop:
        return _Step(stop.value)
    except StopAsyncIteration:
        return _Step(done=True)
    except Exception as error:  # noqa: BLE001  # the item before it goes out first
        return _Step(error=error)
    return _Step(pending=pending, trap=trap)


@types.coroutine
def _finish(step: _Step) -> Generator[Any, Any, _Step]:
    """Wait on for what `_try_to_advance` had begun."""
    pending, trap = step.pending, step.trap
    try:
        while True:
            try:
                sent = yield trap
            except BaseException as error:  # noqa: BLE001  # handed on, as `yield from` does
                trap = pending.throw(error)
            else:
                trap = pending.send(sent)
    except StopIteration as stop:
        return _Step(stop.value)
    except StopAsyncIteration:
        return _Step(done=True)
