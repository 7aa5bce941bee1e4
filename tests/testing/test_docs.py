"""The examples of docs/testing.md do what the page says."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from trio.testing import MockClock

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))
EXAMPLES = [node.name for node in ast.parse(CODE).body if isinstance(node, ast.AsyncFunctionDef)]


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    module = ModuleType("testing_page")
    sys.modules[module.__name__] = module  # where attrs and typing look names up
    exec(compile(CODE, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_passes(name: str, page: ModuleType, clock: MockClock) -> None:
    await getattr(page, name)(clock)
