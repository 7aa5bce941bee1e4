"""The command line: `understudy run | send | emit | stream | dead-letters`.

Here are the parser and what all commands share; each group of commands has a file of
its own, which imports what is costly only when one of its commands runs.

Exit codes: 0 done, 1 the answer was an error or an id unknown, 2 wrong usage, 69 the
service cannot be reached, 78 a declaration or option is wrong, 130 interrupted, 141 the
reader of our output is gone; `run` has those of `supervisors/run.py` besides.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..actors.errors import DeclarationError
from . import client, dead_letters, run

__all__ = ["main"]
