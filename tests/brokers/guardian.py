"""Ends the brokers of a test run that was killed: a program, run beside the tests.

It reads `watch GROUP` and `forget GROUP` from its standard input, a pipe that nobody but
the tests can write to. The end of that pipe is the end of the tests, however it came
about, and then every process group that is still watched is killed.

A death signal of the kernel (PR_SET_PDEATHSIG) would not do: it is sent when the *thread*
that started the process ends, and tests on trio start brokers from threads that come and go.
"""

import os
import signal
import sys
from contextlib import suppress

__all__: list[str] = []


def main() -> None:
    watched: set[int] = set()
    for line in sys.stdin:
        word, group = line.split()
        if word == "watch":
            watched.add(int(group))
        else:
            watched.discard(int(group))
    for group in watched:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
