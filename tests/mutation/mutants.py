"""Small changes to one source file, each of which some test should notice.

A mutant is one such change: a span of the source and what stands there instead, so
that everything else, comments included, stays as it is. What is changed: comparisons,
conditions, operands of `and` and `or`, constants, arithmetic, the end of a queue that
is used, statements (left out), what is returned, the order of statements around an
`await`, `with` blocks (done without). Left alone: annotations, docstrings,
`__slots__`, `__all__`, `__repr__`, protocols, declarations of types, and texts: what
is raised, f-strings, and every string of more than one word.

Libraries make mutants, too. mutmut keeps all mutants of a function beside it, removes
no statement, changes the texts of errors, and finds no module that is reached through
a link, as the floors of this house are; cosmic-ray removes no statement, either, runs
one command for each mutant whichever tests could notice it, and changes the file in
its place. Both name a mutant by a number that the next change of the file gives to
another one, so that no list of accepted survivors could be kept.
"""

import ast
from collections import Counter
from collections.abc import Iterator

import attrs

from .changes import changes_of

__all__ = ["Mutant", "mutants_of"]

_DECLARES = {"Final", "Literal", "TypeVar", "cast"}
_UNTOUCHED = {"__slots__", "__all__"}


@attrs.frozen
class Mutant:
    """One change; `before` and `after` are the lines it touches, blanks made one.

    `nth` tells apart changes that read the same within one function. `lines` are those
    of the statement, for whoever wants to know which tests execute it; the offsets
    count bytes.
    """

    file: str
    function: str
    before: str
    after: str
    nth: int
    lines: range
    start: int
    end: int
    instead: bytes

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What stays the same when the file changes elsewhere."""
        return (self.file, self.function, self.before, self.after, self.nth)

    def applied(self, source: bytes) -> bytes:
        """The source with this change."""
        return source[: self.start] + self.instead + source[self.end :]

    def __str__(self) -> str:
        where = f"{self.file}:{self.lines.start} {self.function}"
        nth = f" ({self.nth}.)" if self.nth > 1 else ""
        return f"{where}{nth}\n  - {self.before}\n  + {self.after}"


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    walk = _Walk(source)
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for spot, start, end, instead in walk.module():
        mutated = source[:start] + instead + source[end:]
        if mutated == source or not _compiles(mutated):
            continue
        before, after = walk.touched(start, end, instead)
        reads = (spot.function, before, after)
        seen[reads] += 1
        found.append(
            Mutant(
                file,
                *reads,
                nth=seen[reads],
                lines=spot.lines,
                start=start,
                end=end,
                instead=instead,
            )
        )
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end))


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:  # such as `return` left out of a block that needs no `pass`
        return False
    return True


@attrs.frozen
class _Spot:
    """The function and the lines of the statement that a change is in."""

    function: str
    lines: range


_Found = Iterator[tuple[_Spot, int, int, bytes]]


class _Walk:
    """Goes through a file, statement by statement."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._tree = ast.parse(source)
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))

    def module(self) -> _Found:
        yield from self._block(self._tree.body, ())

    def touched(self, start: int, end: int, instead: bytes) -> tuple[str, str]:
        """The whole lines around a span, before and after."""
        first = self._source.rfind(b"\n", 0, start) + 1
        last = (self._source + b"\n").find(b"\n", end)
        before = self._source[first:last]
        after = self._source[first:start] + instead + self._source[end:last]
        return " ".join(before.decode().split()), " ".join(after.decode().split())

    def _block(self, body: list[ast.stmt], inside: tuple[str, ...]) -> _Found:
        for number, statement in enumerate(body):
            if _is_left_alone(statement):
                continue
            spot = _Spot(".".join(inside) or "module", _own_lines(statement))
            following = body[number + 1] if number + 1 < len(body) else None
            for change in changes_of(statement, following):
                start = self._offset(change.first.lineno, change.first.col_offset)
                end = self._offset(change.last.end_lineno, change.last.end_col_offset)
                yield spot, start, end, change.text(self._source[start:end])
            yield from self._inner(statement, inside)

    def _inner(self, statement: ast.stmt, inside: tuple[str, ...]) -> _Found:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside = (*inside, statement.name)
        for field in ("body", "orelse", "finalbody"):
            yield from self._block(getattr(statement, field, []), inside)
        for handler in getattr(statement, "handlers", []):
            yield from self._block(handler.body, inside)
        for case in getattr(statement, "cases", []):
            yield from self._block(case.body, inside)

    def _offset(self, line: int | None, column: int | None) -> int:
        if line is None or column is None:
            raise ValueError("A node without its place: it was not made from source.")
        return self._offsets[line - 1] + column


def _own_lines(statement: ast.stmt) -> range:
    """The lines of a statement without those of the blocks in it."""
    body = getattr(statement, "body", None)
    end = statement.end_lineno or statement.lineno
    if body:
        end = max(statement.lineno, body[0].lineno - 1)
    return range(statement.lineno, end + 1)


def _is_left_alone(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Global() | ast.Nonlocal():
            return True
        case ast.Expr(value=ast.Constant()):
            return True  # a docstring, or the `...` of what is only declared
        case ast.FunctionDef(name="__repr__"):
            return True
        case ast.ClassDef(bases=bases):
            return any("Protocol" in ast.unparse(base) for base in bases)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.AnnAssign(value=None):
            return True
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name in _UNTOUCHED or _declares(value)
        case ast.AnnAssign(target=ast.Name(), value=ast.expr() as value):
            return _declares(value)
        case _:
            return False


def _declares(value: ast.expr) -> bool:
    """Whether it makes a type, or gives a value to the type checker."""
    called = value.func if isinstance(value, ast.Call) else None
    taken = value.value if isinstance(value, ast.Subscript) else called
    return isinstance(taken, ast.Name) and taken.id in _DECLARES
