"""Mutants are made where they should be, and the campaign tells those noticed from survivors."""

import subprocess
import sys
from pathlib import Path

import pytest

from .mutants import Mutant, mutants_of
from .selection import SLOW, Selection
from .survivors import accepted, stale

ROOT = Path(__file__).parents[2]


def changed(source: str) -> list[str]:
    """What each mutant makes of the lines it touches."""
    return [mutant.after for mutant in mutants_of("sample.py", source.encode())]


@pytest.mark.parametrize(
    ("line", "mutants"),
    [
        pytest.param("x = a < b", ["x = a <= b", "x = a >= b"], id="a comparison"),
        pytest.param("x = a is b", ["x = a is not b"], id="an identity"),
        pytest.param("x = 0 < a <= b", ["x = 0 <= a <= b", "x = 0 < a < b", "x = 1 < a <= b"],
                     id="a chain"),
        pytest.param("x = a and b", ["x = b", "x = a"], id="operands"),
        pytest.param("x = not (a or b)", ["x = (a or b)", "x = not (b)", "x = not (a)"], id="not"),
        pytest.param("x = a - b", ["x = a + b"], id="arithmetic"),
        pytest.param("x = c * a**b", ["x = c / a ** b", "x = c * (a * b)"], id="a power"),
        pytest.param("x = True", ["x = False"], id="a boolean"),
        pytest.param("x = 2.5", ["x = 3.5"], id="a number"),
        pytest.param("x = 'down'", ["x = 'down-else'"], id="a word"),
        pytest.param("x = 'a text'", [], id="no text"),
        pytest.param("x = f'{a + 1}'", [], id="nothing in an f-string"),
        pytest.param("x = ValueError(1)", [], id="nothing of an error"),
        pytest.param("q.popleft()", ["pass", "q.pop()"], id="the end of a queue"),
        pytest.param("x = [a for a in b if c]", ["x = [a for a in b if True]"], id="a filter"),
    ],
)  # fmt: skip
def test_an_expression_is_changed_in_every_sensible_way(line: str, mutants: list[str]) -> None:
    assert sorted(changed(line)) == sorted(mutants)


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        pytest.param("if a == b:\n    c()", ["if True:", "if False:", "pass"], id="a condition"),
        pytest.param("a.b = c", ["pass"], id="an attribute is not set"),
        pytest.param("def f():\n    return x", ["return None"], id="an answer is not given"),
        pytest.param("def f(a=1): ...", ["def f(a=2): ..."], id="a default"),
        pytest.param("with a.b():\n    c = d", ["if True:"], id="a block is done without"),
        pytest.param("with a() as b:\n    c = d", [], id="but not one that gives something"),
        pytest.param("raise ValueError('a')", ["pass"], id="nothing is raised"),
    ],
)
def test_a_statement_is_left_out_or_decided(source: str, mutants: list[str]) -> None:
    assert sorted(changed(source)) == sorted(mutants)


def test_what_is_around_an_await_changes_its_place() -> None:
    source = "async def f():\n    a.kill()\n    await b()\n    c.d()\n    e.f()\n"

    swapped = [mutant for mutant in mutants_of("sample.py", source.encode()) if "()" in
               mutant.after and mutant.after != "pass"]  # fmt: skip

    assert [mutant.after for mutant in swapped] == ["await b() a.kill()", "c.d() await b()"]
    assert swapped[0].applied(source.encode()).decode() == (
        "async def f():\n    await b()\n    a.kill()\n    c.d()\n    e.f()\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('"""A text."""', id="a docstring"),
        pytest.param("__slots__ = ('a',)", id="slots"),
        pytest.param("__all__ = ['a']", id="public names"),
        pytest.param("Kind = Literal['a', 'b']", id="a type"),
        pytest.param("x: Final = cast('a', b)", id="a value for the type checker"),
        pytest.param("class A:\n    def __repr__(self):\n        return str(1)", id="repr"),
        pytest.param("class A(Protocol):\n    b: int = 1", id="a protocol"),
        pytest.param("if TYPE_CHECKING:\n    x = 1", id="what types alone need"),
        pytest.param("def f(a: 'b') -> 'c': ...", id="annotations"),
    ],
)
def test_what_does_nothing_is_left_alone(source: str) -> None:
    assert changed(source) == []


def test_a_mutant_changes_its_span_and_nothing_else() -> None:
    source = "def f(ä):  # für\n    return ä + 1  # why\n".encode()

    texts = [one.applied(source).decode() for one in mutants_of("sample.py", source)]

    assert "def f(ä):  # für\n    return ä - 1  # why\n" in texts
    assert "def f(ä):  # für\n    return None  # why\n" in texts


def test_mutants_that_read_the_same_are_told_apart_and_keep_their_names() -> None:
    source = b"def f():\n    x(a)\n    x(a)\n"

    keys = [mutant.key for mutant in mutants_of("sample.py", source)]
    later = [mutant.key for mutant in mutants_of("sample.py", b"y = z\n\n\n" + source)]

    assert keys == [("sample.py", "f", "x(a)", "pass", nth) for nth in (1, 2)]
    assert later == keys


# -- tests to run, and survivors ------------------------------------------------


def test_a_line_s_own_tests_come_first_then_the_fastest() -> None:
    seconds = {"test_a.py::slow": 0.5, "test_b.py::quick": 0.1, "test_b.py::long": 0.2}
    executed = {1: frozenset(seconds), 2: frozenset({"test_b.py::quick"}), 3: frozenset({""})}
    selection = Selection(seconds, {"floor/a.py": executed})

    assert max(seconds.values()) < SLOW
    assert selection.covering("floor/a.py", range(1, 2)) == list(seconds)
    assert selection.covering("floor/a.py", range(2, 3)) == ["test_b.py::quick"]
    assert selection.covering("floor/a.py", range(3, 4)) == list(seconds)  # when it is imported
    assert selection.covering("floor/a.py", range(4, 5)) == []


_ENTRY = """
[[survivor]]
file = "sample.py"
function = "f"
before = "x(a)"
after = "pass"
"""


def test_a_listed_survivor_that_a_test_notices_is_out_of_date() -> None:
    listed = accepted(_ENTRY + 'why = "x does nothing"')
    (mutant,) = mutants_of("sample.py", b"def f():\n    x(a)\n")

    assert stale(listed, "sample.py", [mutant]) == []
    assert stale(listed, "sample.py", []) == [mutant.key]
    assert stale(listed, "other.py", []) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [(_ENTRY + 'why = " "', "has no reason"), ((_ENTRY + 'why = "x"\n') * 2, "is listed twice")],
    ids=["no reason", "twice"],
)
def test_a_survivor_is_listed_once_and_with_a_reason(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        accepted(text)


def test_every_listed_survivor_is_a_mutant_of_its_file() -> None:
    listed = accepted()
    files = {key[0] for key in listed}
    there = {one.key for file in files for one in mutants_of(file, (ROOT / file).read_bytes())}

    assert [key for key in listed if key not in there] == []


# -- a slice of a campaign --------------------------------------------------------


def _number(mutants: list[Mutant], after: str) -> str:
    (number,) = [number for number, one in enumerate(mutants, 1) if one.after == after]
    return str(number)


def test_a_slice_of_the_strategy_is_noticed_by_its_tests() -> None:
    strategy = "supervisors/strategy.py"
    mutants = mutants_of(strategy, (ROOT / strategy).read_bytes())
    edge = "while self._times and self._times[0] <= now - self.within:"
    wanted = [edge, "return range(index, index + 2)", "self._times.pop()"]
    only = [_number(mutants, after) for after in wanted]

    out = subprocess.run(
        [sys.executable, "-m", "tests.mutation", "--file", strategy, "--jobs", "1",
         "--tests", "tests/supervisors/test_strategy.py", "--only", *only],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (out.returncode, out.stderr) == (0, "")
    assert "3 mutants, 3 noticed, 0 survive and are listed, 0 survive and are not" in out.stdout
