"""What a block of a test may raise: an error to show as it is, or the end of the run."""

import trio

from ..actors.errors import UnderstudyError

__all__ = ["is_cancelled", "of_a_block", "the_one_to_raise"]


def is_cancelled(error: BaseException) -> bool:
    """Whether trio must get it back: a cancellation, alone or in a group."""
    if isinstance(error, BaseExceptionGroup):
        return (
            error.subgroup(lambda one: isinstance(one, trio.Cancelled | GeneratorExit)) is not None
        )
    return isinstance(error, trio.Cancelled | GeneratorExit)


def the_one_to_raise(
    block: BaseException | None, tree: BaseException | None
) -> BaseException | None:
    """Of what a block raised and what ended its tree, what a reader has to see; the other noted.

    Errors of the house are what the block saw of the tree's end: the tree tells why.
    """
    if block is None or tree is None or block is tree:
        return block or tree
    raised, other = (tree, block) if isinstance(block, UnderstudyError) else (block, tree)
    raised.add_note(f"Meanwhile: {type(other).__name__}: {other}")
    return raised


def of_a_block(error: BaseException) -> BaseException:
    """Mark what leaves a block of the kit: the plugin shows it without the groups around it."""
    error.__dict__["understudy_block"] = True
    return error
