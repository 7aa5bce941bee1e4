"""A command line that ends when the process that started it does, however that ends.

For the service of `--reload`: its standard input is a pipe whose other end nobody but the
reloading process has. When that is gone, the service is told to stop in order.
"""

import os
import signal
import sys
import threading

from .main import main

__all__ = ["leashed"]


def leashed() -> int:
    """Run a command; its standard input is the leash. Returns its exit code."""
    threading.Thread(target=_hold, name="understudy-leash", daemon=True).start()
    return main()


def _hold() -> None:
    while os.read(0, 4096):
        pass  # nothing is said on it
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(leashed())
