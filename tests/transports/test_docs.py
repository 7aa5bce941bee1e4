"""The options in docs/ are those of the code, with the same defaults."""

import re
from pathlib import Path

import attrs
import pytest

from understudy.transports.memory import MemoryClientOptions, MemoryOptions
from understudy.transports.tcp.options import TcpClientOptions, TcpOptions

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "heading", "options"),
    [
        ("tcp.md", "serve", TcpOptions()),
        ("tcp.md", "connect", TcpClientOptions()),
        ("memory.md", "serve", MemoryOptions()),
        ("memory.md", "connect", MemoryClientOptions()),
    ],
    ids=["tcp serve", "tcp connect", "memory serve", "memory connect"],
)
def test_every_option_is_documented_with_its_default(
    page: str, heading: str, options: attrs.AttrsInstance
) -> None:
    section = (DOCS / page).read_text().split(f"### `{heading}`")[1].split("#")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))

    assert documented == {name: str(value) for name, value in attrs.asdict(options).items()}


@pytest.mark.parametrize("page", ["tcp.md", "memory.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (DOCS / page).read_text())

    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []
