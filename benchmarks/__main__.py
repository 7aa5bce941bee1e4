"""All benchmarks, one after the other, and the report: `python -m benchmarks [NAME...]`.

Each runs in a process of its own, and what one cannot do (no Node, no /proc) or misses
does not keep the others from running. The exit code is 1 if any bar was missed or any
benchmark failed; the report is written in either case.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import BENCHMARKS, write


def main(names: Sequence[str]) -> bool:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"There is no benchmark {', '.join(unknown)}; try {', '.join(BENCHMARKS)}")
    begin = time.monotonic()
    bad: list[str] = []
    for name in names or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        if subprocess.run(command, cwd=Path(__file__).parent.parent, check=False).returncode:
            bad.append(name)
    print(f"\n{time.monotonic() - begin:.0f} s; report: {write()}")
    if bad:
        print(f"not as it should be: {', '.join(bad)}")
    return not bad


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
