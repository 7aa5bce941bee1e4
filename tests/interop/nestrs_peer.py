"""The nestrs peer: a Rust program in tests/peers/nestrs, built by cargo when a test needs it.

Owns finding cargo and the build, not the program. What was built stays in build/nestrs,
or in CARGO_TARGET_DIR where that is set, so that only the first run takes its minutes.
`python -m tests.interop.nestrs_peer` builds it beforehand.

Invariant: a machine that cannot build it, for want of a recent cargo or of the headers of
OpenSSL that nestrs's MQTT library needs, skips the tests and says what is missing; with
UNDERSTUDY_REQUIRE_PEERS set it fails them. A build that breaks always fails.
Source: the Cargo book, "Build cache" and "The rust-version field".
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from ..missing import missing

__all__ = ["nestrs_program"]

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "tests" / "peers" / "nestrs"
BUILT: Final = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "build" / "nestrs").absolute()


def nestrs_program() -> str:
    """Where the built program is."""
    _require_openssl()
    command = [_cargo(), "build", "--quiet", "--release", "--locked"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILT)}
    done = subprocess.run(
        command, cwd=SOURCE, env=environment, capture_output=True, text=True, timeout=1200
    )
    if done.returncode != 0:
        pytest.fail(f"the nestrs peer does not build:\n{done.stderr[-4000:]}")
    return str(BUILT / "release" / "nestrs-peer")


def _require_openssl() -> None:
    if sys.platform != "linux":
        return
    program = shutil.which("pkg-config")
    if program is None or subprocess.run([program, "--exists", "openssl"], timeout=60).returncode:
        missing(
            "OpenSSL's headers, which the nestrs peer needs to build, are missing "
            "(Debian: apt-get install pkg-config libssl-dev)"
        )


def _cargo() -> str:
    """The cargo that can build the peer: the one on PATH, or else where rustup puts it."""
    homes = [os.environ.get("CARGO_HOME"), "~/.cargo"]
    beside = [Path(home).expanduser() / "bin" / "cargo" for home in homes if home]
    found = [shutil.which("cargo"), *(str(path) for path in beside if path.exists())]
    versions = {program: _version(program) for program in found if program}
    needed = _needed()
    good = next((program for program, version in versions.items() if version >= needed), None)
    if good is None:
        wanted = f"cargo {needed[0]}.{needed[1]} or newer, which rustup installs, is missing"
        seen = "; ".join(f"{program} is {a}.{b}" for program, (a, b) in versions.items())
        missing(f"{wanted}, and the nestrs peer needs it to build{f' ({seen})' if seen else ''}")
    return good


def _version(program: str) -> tuple[int, int]:
    """0.0 for one that does not run, such as rustup's without a toolchain."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    return _two_numbers(done.stdout) if done.returncode == 0 else (0, 0)


def _needed() -> tuple[int, int]:
    package = tomllib.loads((SOURCE / "Cargo.toml").read_text())["package"]
    return _two_numbers(package["rust-version"])


def _two_numbers(text: str) -> tuple[int, int]:
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


if __name__ == "__main__":
    nestrs_program()
