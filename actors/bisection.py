"""Finding the item that makes a batch fail, in few runs.

When a run of many items fails, one of them at least is to blame. Half of them are run
next: if that fails, the one to blame is among them, and what stands behind them waits to be run
all at once in the end; if it succeeds, it is among the others, which need not be run
together to know that. One bad item in a batch of n is found after log2(n) + 2 runs at most,
and the rest takes one more.

Pure: the items are their owner's, who takes them from the front of a line.
Source: binary splitting, as in R. Dorfman's and F. Hwang's group testing.
"""

__all__ = ["Bisection"]


class Bisection:
    """What is known of the first items of a line.

    `suspects` of them hold one at least that fails, 0 for nothing known; all of them
    were in each of the last `runs` runs that failed.
    """

    __slots__ = ("runs", "suspects")

    def __init__(self) -> None:
        self.suspects = 0
        self.runs = 0

    def next(self, waiting: int, most: int) -> int:
        """How many of `waiting` items to run now, `most` at most."""
        if self.suspects:
            return max(1, self.suspects // 2)
        return min(waiting, most)

    def succeeded(self, count: int) -> None:
        """The first `count` items are done."""
        self.left(count)

    def failed(self, count: int) -> int:
        """The first `count` items failed together: how often it has, if it is one alone, or 0."""
        self.runs += 1
        if count > 1:
            self.suspects = count
            return 0
        runs, self.runs, self.suspects = self.runs, 0, 0
        return runs

    def left(self, count: int) -> None:
        """The first `count` items are no longer there."""
        self.suspects = max(0, self.suspects - count)
        if not self.suspects:
            self.runs = 0
