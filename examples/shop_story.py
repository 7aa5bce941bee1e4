"""How the demo is told: chapters, sentences that are checked, and the log as it is written."""

import logging
import os
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from understudy.supervisors.system import ChildState

__all__ = ["Story", "StoryBroken"]

WIDTH: Final = 100

SHOWN: Final = {"Crashed", "Restarting", "GaveUp", "Escalated", "DeadLettered"}
"""Lifecycle notices whose log lines are part of the story."""

BOLD, DIM, YELLOW = "1", "2", "33"


class StoryBroken(Exception):
    """Something did not happen as told."""


class Story(logging.Handler):
    """Prints to stdout, in colour on a terminal; a handler, so that the log is told as well."""

    def __init__(self) -> None:
        super().__init__()
        # Its own: output of commands is redirected while the log goes on.
        self._out = sys.stdout
        self._colour = self._out.isatty() and "NO_COLOR" not in os.environ
        self._began = time.perf_counter()
        self._chapters = 0
        self.hidden: set[str] = set()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def chapter(self, title: str) -> None:
        self._chapters += 1
        self.hidden.clear()
        self.say("")
        self.say(f"{self._chapters}. {title}", BOLD, indent=0)

    def say(self, text: str, style: str = "", *, indent: int = 3) -> None:
        before, after = " " * indent, " " * (indent + 11)
        wrapper = textwrap.TextWrapper(
            WIDTH, before, after, break_long_words=False, break_on_hyphens=False
        )
        text = wrapper.fill(text)
        print(f"\033[{style}m{text}\033[0m" if style and self._colour else text, file=self._out)

    def check(self, fact: bool, text: str) -> None:
        """Say what holds if `fact` does. Raises `StoryBroken` if it does not."""
        if not fact:
            raise StoryBroken(text)
        self.say(text)

    def tree(self, lines: Iterable[ChildState]) -> None:
        """Show a tree; who has restarted stands out."""
        for line in lines:
            name = "  " * line.depth + line.path.rpartition("/")[2]
            text = (
                f"   {name:<16}  {line.kind:<10}  {line.state:<8}  incarnation {line.incarnation}"
            )
            self.say(text, YELLOW if line.incarnation > 1 else "", indent=0)

    def emit(self, record: logging.LogRecord) -> None:
        notice = getattr(record, "notice", None)
        if notice in SHOWN and notice not in self.hidden:
            # A log handler must not raise; that nobody reads, the next sentence notices.
            with suppress(BrokenPipeError):
                self.say(f"{self.elapsed:6.3f} s   {record.getMessage()}", DIM)
