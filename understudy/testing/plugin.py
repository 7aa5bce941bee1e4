"""The pytest plugin: fixtures, and `--transport`; found by pytest's entry point.

Loaded by pytest in every project where this package is installed, so that it imports
nothing but pytest until a fixture is asked for, and changes nothing about tests that do
without the kit. `-p no:understudy.testing.plugin` keeps it out.
"""

from argparse import ArgumentError
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

    from .serving import Serve

__all__ = [
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_load_initial_conftests",
    "pytest_runtest_call",
    "service",
    "understudy_transport",
    "virtual_time",
]

_OPTION: Final = "understudy_transports"
_FIXTURE: Final = "understudy_transport"
_MEMORY: Final = "memory://test"  # as in places.py, which would load too much


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, Any, None]:
    """Add `--transport`, unless the project has an option of that name itself.

    Which is known only after its conftest files; until then the URL looks like a path.
    """
    paths: list[str] = early_config.known_args_namespace.file_or_dir
    for option, value in pairwise(args):
        if option == "--transport" and value in paths:
            paths.remove(value)
    yield
    with suppress(ValueError, ArgumentError):  # it is the project's
        parser.getgroup("understudy").addoption(
            "--transport",
            action="append",
            default=[],
            dest=_OPTION,
            metavar="URL",
            help="serve and connect there in tests with the fixture `service`, instead of in "
            "memory; more than once for several, such as nats://127.0.0.1:4222",
        )


def pytest_configure(config: pytest.Config) -> None:
    for url in _urls(config):
        if "://" not in url:
            raise pytest.UsageError(
                f"--transport {url}: a URL is expected, such as nats://127.0.0.1:4222."
            )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    urls = _urls(metafunc.config)
    if urls and _FIXTURE in metafunc.fixturenames:
        # Only the scheme: a URL may hold a login.
        ids = [url.partition("://")[0] for url in urls]
        metafunc.parametrize(_FIXTURE, urls, indirect=True, ids=ids)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Generator[None, Any, None]:
    """Show what a block of the kit raised as it is; nurseries around it make groups of one."""
    outcome = yield
    if not hasattr(outcome, "force_exception"):
        return  # an old pluggy
    raised = error = outcome.exception
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if error is not raised and getattr(error, "understudy_block", False):
        outcome.force_exception(error)


@pytest.fixture
def understudy_transport(request: pytest.FixtureRequest) -> str:
    """The URL that this test serves at: in memory, or one of `--transport`."""
    url: str = getattr(request, "param", _MEMORY)
    return url


@pytest.fixture
def service(understudy_transport: str) -> "Serve":
    """`understudy.testing.service`, in memory or at the transport of this run."""
    from .serving import service as serve_tree  # noqa: PLC0415  # not before it is used

    return partial(serve_tree, url=understudy_transport)


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> "MockClock | None":
    """A clock that jumps when all wait; None, which is real time, for a service with sockets."""
    from trio.testing import MockClock  # noqa: PLC0415  # not before it is used

    from .places import is_virtual  # noqa: PLC0415

    # Not as a parameter: a test without a service is the same for every transport.
    served = _FIXTURE in request.fixturenames
    if served and not is_virtual(request.getfixturevalue(_FIXTURE)):
        return None
    return MockClock(autojump_threshold=0)


def _urls(config: pytest.Config) -> list[str]:
    return getattr(config.option, _OPTION, [])
