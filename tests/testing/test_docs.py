"""The examples of docs/testing.md do what the page says."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trio.testing import MockClock

from understudy import testing
from understudy.testing import Serve

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
TEXT = PAGE.read_text()
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S))
FUNCTIONS = ast.parse(CODE).body
EXAMPLES = [node.name for node in FUNCTIONS if isinstance(node, ast.AsyncFunctionDef)]
PLAIN = [node.name for node in FUNCTIONS if isinstance(node, ast.FunctionDef)]


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    module = ModuleType("testing_page")
    sys.modules[module.__name__] = module  # where attrs and typing look names up
    exec(compile(CODE, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_passes(
    name: str, page: ModuleType, virtual_time: MockClock, service: Serve
) -> None:
    fixtures: dict[str, Any] = {"virtual_time": virtual_time, "service": service}
    example = getattr(page, name)
    await example(**{name: fixtures[name] for name in inspect.signature(example).parameters})


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_example_passes(name: str, page: ModuleType) -> None:
    getattr(page, name)()


def test_everything_public_is_on_the_page() -> None:
    kept = {"Blocked", "BlockedActor", "DeadLetters", "Delivery", "Fault", "Injection", "Isolated"}
    kept |= {"Received", "RunningService", "Serve"}  # types of what the page shows
    missing = [name for name in testing.__all__ if name not in kept and f"`{name}" not in TEXT]
    assert missing == []
