"""What may be changed about one statement: the operators of mutation testing.

A change names the first and the last node of what goes, and says what comes instead.
One kind of change, one function. Nothing here looks into the blocks of a statement;
mutants.py goes through them.
"""

import ast
import copy
import re
from collections.abc import Callable, Iterator

import attrs

__all__ = ["Change", "changes_of"]

_EDGE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
_CALLED = {
    "append": "appendleft",
    "appendleft": "append",
    "popleft": "pop",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "reversed": "iter",
    "sorted": "list",
}
_WORD = re.compile(r"[\w./#*>-]+")


@attrs.frozen
class _Place:
    """Stands for nodes: where something begins and ends."""

    lineno: int
    col_offset: int
    end_lineno: int | None
    end_col_offset: int | None


@attrs.frozen
class Change:
    """From the beginning of `first` to the end of `last`, `text` makes new source of old."""

    first: ast.stmt | ast.expr | _Place
    last: ast.stmt | ast.expr | _Place
    text: Callable[[bytes], bytes]
    opposite: bool = False


def changes_of(statement: ast.stmt, following: ast.stmt | None) -> Iterator[Change]:
    """Every change of one statement, what is in its blocks left aside."""
    yield from _left_out(statement)
    yield from _swapped(statement, following)
    yield from _without_block(statement)
    if isinstance(statement, ast.Raise):
        return  # what is raised is mostly text
    tests = list(_tests(statement))
    for test in tests:
        yield _instead(test, "True")
        yield _instead(test, "False")
    for expression in _expressions(statement):
        for change in _inside(expression):
            # Who notices neither True nor False will not notice the opposite.
            if not (change.opposite and any(change.first is test for test in tests)):
                yield change


def _instead(old: ast.expr | ast.stmt, new: ast.expr | str, *, opposite: bool = False) -> Change:
    text = new if isinstance(new, str) else ast.unparse(new)
    # What binds less than the old one would take its neighbours in.
    loose = isinstance(new, ast.BoolOp | ast.Compare | ast.IfExp | ast.BinOp | ast.UnaryOp)
    if isinstance(new, ast.expr) and loose and type(new) is not type(old):
        text = f"({text})"
    return Change(old, old, lambda _: text.encode(), opposite)


# -- statements ---------------------------------------------------------------


def _left_out(statement: ast.stmt) -> Iterator[Change]:
    match statement:
        case ast.Expr(value=value) if not isinstance(value, ast.Constant):
            yield _instead(statement, "pass")
        case ast.Assign(targets=targets) if not any(isinstance(t, ast.Name) for t in targets):
            yield _instead(statement, "pass")
        case ast.AnnAssign(target=ast.Attribute() | ast.Subscript()):
            yield _instead(statement, "pass")
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield _instead(statement, "pass")
        case ast.Return(value=None):
            yield _instead(statement, "pass")
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield _instead(value, "None")


def _swapped(statement: ast.stmt, following: ast.stmt | None) -> Iterator[Change]:
    """The order around an `await`: what comes before it and what after."""
    if following is None or not (_is_step(statement) and _is_step(following)):
        return
    pair = (statement, following)
    if any(isinstance(node, ast.Await) for one in pair for node in ast.walk(one)):
        first, second = ast.unparse(statement), ast.unparse(following)

        def swapped(old: bytes) -> bytes:
            blank = b"\n" + b" " * statement.col_offset
            return second.encode() + blank + first.encode()

        yield Change(statement, following, swapped)


def _is_step(statement: ast.stmt) -> bool:
    """Something done that names nothing which a neighbour could need."""
    match statement:
        case ast.Expr(value=value):
            return not isinstance(value, ast.Constant)
        case ast.Assign(targets=[ast.Attribute()]) | ast.AugAssign(target=ast.Attribute()):
            return True
        case _:
            return False


def _without_block(statement: ast.stmt) -> Iterator[Change]:
    """`with x:` done without; also `async with`, if nobody needs what it gives."""
    if isinstance(statement, ast.With | ast.AsyncWith):
        items = statement.items
        if all(item.optional_vars is None for item in items):
            last = items[-1].context_expr
            place = _Place(
                statement.lineno, statement.col_offset, last.end_lineno, last.end_col_offset
            )
            yield Change(place, place, lambda _: b"if True")


# -- expressions --------------------------------------------------------------


def _tests(statement: ast.stmt) -> Iterator[ast.expr]:
    if isinstance(statement, ast.If | ast.While):
        yield statement.test
    for expression in _expressions(statement):
        for node in ast.walk(expression):
            if isinstance(node, ast.IfExp):
                yield node.test


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a statement itself: no annotations, no decorators, no bases."""
    match statement:
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            yield from (default for default in [*args.defaults, *args.kw_defaults] if default)
        case ast.ClassDef():
            return
        case ast.AnnAssign(value=ast.expr() as value):
            yield value
        case ast.Assign(value=value) | ast.AugAssign(value=value):
            yield value
        case ast.With(items=items) | ast.AsyncWith(items=items):
            yield from (item.context_expr for item in items)
        case _:
            for child in ast.iter_child_nodes(statement):
                if isinstance(child, ast.expr):
                    yield child


def _inside(expression: ast.expr) -> Iterator[Change]:
    if isinstance(expression, ast.JoinedStr) or _is_error(expression):
        return
    yield from _changed(expression)
    for child in ast.iter_child_nodes(expression):
        if isinstance(child, ast.expr):
            yield from _inside(child)
        elif isinstance(child, ast.keyword):
            yield from _inside(child.value)
        elif isinstance(child, ast.comprehension):
            yield from _inside(child.iter)
            for test in child.ifs:
                yield _instead(test, "True")
                yield from _inside(test)


def _is_error(expression: ast.expr) -> bool:
    """Whether it makes an error: its arguments are there to be read."""
    if not isinstance(expression, ast.Call) or not isinstance(expression.func, ast.Name):
        return False
    return expression.func.id.endswith("Error")


def _changed(node: ast.expr) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=ops):
            for number, op in enumerate(ops):
                if type(op) in _EDGE:
                    edge = [*ops[:number], _EDGE[type(op)](), *ops[number + 1 :]]
                    yield _instead(node, _with(node, ops=edge))
            if len(ops) == 1:
                other = _with(node, ops=[_OPPOSITE[type(ops[0])]()])
                yield _instead(node, other, opposite=True)
        case ast.BoolOp(values=values):
            for number in range(len(values)):
                rest = [*values[:number], *values[number + 1 :]]
                yield _instead(node, rest[0] if len(rest) == 1 else _with(node, values=rest))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield _instead(node, operand, opposite=True)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield _instead(node, operand)
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            other_op = _COMPUTED[type(op)]()
            new = _with(node, op=other_op)
            yield _instead(node, f"({ast.unparse(new)})" if isinstance(op, ast.Pow) else new)
        case ast.Constant(value=value):
            yield from _constant(node, value)
        case ast.Name(id=name) if name in _CALLED:
            yield _instead(node, _CALLED[name])
        case ast.Attribute(attr=name) if name in _CALLED:
            yield _instead(node, _with(node, attr=_CALLED[name]))


def _constant(node: ast.Constant, value: object) -> Iterator[Change]:
    match value:
        case bool():
            yield _instead(node, str(not value))
        case int() | float():
            yield _instead(node, repr(value + 1))
        case str() if _WORD.fullmatch(value):
            yield _instead(node, repr(f"{value}-else"))


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
