"""Running a tree as a process: signals in, an exit code out.

`run(tree)` owns the process: it configures the log, receives SIGINT and SIGTERM, and
tells the outcome by the exit code.

The first signal stops the tree in order (drain), the second cancels what is left, the
third ends the process on the spot. Signals are counted in plain Python handlers, not
in trio, so that the third works even if the event loop is blocked; for the same
reason a thread watches that a stop, once begun, comes to an end.

Exit codes (sysexits.h): 0 clean, 70 the root gave up or could not start, 75 the drain was
cut short, 78 the tree or its options are wrong. A handler's `SystemExit` keeps its own.
"""

import faulthandler
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import attrs
import trio

from ..actors.errors import DeclarationError
from ..actors.incarnation import SupervisorGaveUp
from ..actors.lifecycle import GaveUp, Notice
from .child import Supervisor
from .delivery.location import DEFAULT_FILE, default_path
from .delivery.policy import DEFAULT_POLICY, RetryPolicy
from .delivery.store import DeadLetterStore, MemoryStore, SQLiteStore
from .delivery.store_file import StoreFile
from .log_text import chain_of, describe, leaf_of
from .logs import LOGGER, LogFormat, configure, log_lifecycle
from .supervisor import KILL_GRACE
from .system import System

__all__ = ["CUT_SHORT", "FAILED", "WRONG", "run"]

FAILED: Final = 70
CUT_SHORT: Final = 75
WRONG: Final = 78
"""Exit codes: the root failed, the drain was cut short, the declaration is wrong."""
