"""The rules of the house that a machine can keep: floors, imports, names, packaging."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import attrs
import pytest

import understudy

ROOT = Path(__file__).parents[1]
FLOORS = ("actors", "supervisors", "transports")
ROOMS = (*FLOORS, "understudy")
OUTSIDE = ("tests", "examples", "benchmarks")


@attrs.frozen
class Import:
    """One name that a file imports: `module` with its dots resolved, seen from the roof."""

    file: Path
    line: int
    module: str
    name: str | None
    relative: bool
    for_types: bool

    def __str__(self) -> str:
        what = self.module if self.name is None else f"{self.module}: {self.name}"
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {what}"


def _files(*rooms: str) -> list[Path]:
    found: list[Path] = []
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            inside = path.relative_to(ROOT).parts
            # The floors are seen once more through the links of the roof.
            seen_twice = inside[0] == "understudy" and inside[1] in FLOORS
            if not seen_twice and "node_modules" not in inside:
                found.append(path)
    return sorted(found)


HOUSE = _files(*ROOMS)
ALL = [*HOUSE, *_files(*OUTSIDE)]


def _module(file: Path) -> str:
    """The full name of a file's module, such as `understudy.actors.ref`."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in FLOORS:
        parts.insert(0, "understudy")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


@cache
def _imports(file: Path) -> tuple[Import, ...]:
    return tuple(_imports_in(file, _tree(file), for_types=False))


def _imports_in(file: Path, node: ast.AST, *, for_types: bool) -> Iterator[Import]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Import):
            for alias in inner.names:
                yield Import(file, inner.lineno, alias.name, None, False, for_types)
        elif isinstance(inner, ast.ImportFrom):
            module = _resolved(file, inner)
            for alias in inner.names:
                yield Import(file, inner.lineno, module, alias.name, inner.level > 0, for_types)
        else:
            typing_only = isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.dump(inner.test)
            yield from _imports_in(file, inner, for_types=for_types or typing_only)


def _resolved(file: Path, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = _module(file).split(".")
    if file.name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *filter(None, [node.module])])


def _target(one: Import, modules: dict[str, Path]) -> str | None:
    """The module of the house that is imported, if it is one: the name may be a module too."""
    inner = f"{one.module}.{one.name}"
    return inner if inner in modules else one.module if one.module in modules else None


def _floor(module: str) -> int:
    """0 for actors, 1 for supervisors, 2 for transports, 3 for the roof."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else len(FLOORS)


MODULES = {_module(file): file for file in HOUSE}


def _list(found: list[str], rule: str) -> str:
    return "\n  ".join([rule, *found])


# -- imports ------------------------------------------------------------------


def test_imports_go_down_only() -> None:
    upwards = [
        str(one)
        for module, file in MODULES.items()
        for one in _imports(file)
        if (target := _target(one, MODULES)) is not None and _floor(target) > _floor(module)
    ]

    rule = "actors < supervisors < transports < understudy; move the code or pass it in:"
    assert not upwards, _list(upwards, rule)


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs = {
        module: {
            target
            for one in _imports(file)
            if not one.for_types and (target := _target(one, MODULES)) not in (None, module)
        }
        for module, file in MODULES.items()
    }
    # Take away whatever needs nothing that is left: a circle is what stays.
    while free := [module for module, needed in needs.items() if not needed & needs.keys()]:
        for module in free:
            del needs[module]

    circle = [f"{module} needs {sorted(needed & needs.keys())}" for module, needed in needs.items()]
    assert not circle, _list(circle, "import cycle; typing-only imports may close one:")


def test_no_file_imports_a_package_root() -> None:
    packages = {module for module, file in MODULES.items() if file.name == "__init__.py"}
    # What users import from, tests and examples may; there no cycle can come from it.
    public = {"understudy", "understudy.testing"}
    roots = [
        str(one)
        for file in ALL
        for one in _imports(file)
        if one.name is not None
        and _target(one, MODULES) in (packages if file in HOUSE else packages - public)
    ]

    assert not roots, _list(roots, "import the file that defines the name, not its package:")


def test_floors_are_never_imported_by_their_bare_names() -> None:
    bare = [
        str(one)
        for file in ALL
        for one in _imports(file)
        if not one.relative and one.module.split(".")[0] in FLOORS
    ]

    rule = "this would load a second copy; write understudy.actors..., or a relative import:"
    assert not bare, _list(bare, rule)


def test_the_house_imports_itself_relatively() -> None:
    absolute = [
        str(one)
        for file in HOUSE
        for one in _imports(file)
        if not one.relative and one.module.split(".")[0] == "understudy"
    ]

    assert not absolute, _list(absolute, "write a relative import, as everywhere in the house:")


def test_private_names_stay_in_their_file() -> None:
    taken = [
        str(one)
        for file in HOUSE
        for one in _imports(file)
        if one.name is not None
        and one.module.startswith("understudy")
        and any(part.startswith("_") for part in [one.name, *one.module.split(".")])
    ]

    assert not taken, _list(taken, "make the name public in its file, or do without:")


# -- names --------------------------------------------------------------------


@pytest.mark.parametrize("module", [m for m, f in MODULES.items() if f.read_text().strip()])
def test_every_module_says_what_is_public_and_has_it(module: str) -> None:
    loaded = import_module(module)

    assert hasattr(loaded, "__all__"), f"{module} has no __all__."
    missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
    assert not missing, f"{module}: __all__ lists what is not there: {missing}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_begins_with_what_it_is_about(module: str) -> None:
    file = MODULES[module]

    assert not file.read_text().strip() or ast.get_docstring(_tree(file)), f"{file}: no docstring."


def test_unknown_public_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'understudy' has no attribute 'Akter'"):
        _ = understudy.Akter


def test_public_names_are_listed() -> None:
    assert set(understudy.__all__) <= set(dir(understudy))


def test_wishes_are_not_kept_in_the_code() -> None:
    wish = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]))
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in ALL
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if wish.search(line)
    ]

    assert not found, _list(found, "do it, or write it into docs/:")


# -- what an import costs -----------------------------------------------------


def _loaded(statement: str) -> set[str]:
    """The modules that a fresh process has loaded after a statement."""
    program = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


CLIENTS = {"nats", "redis", "aio_pika", "aiokafka", "paho", "grpc", "trio_websocket"}
HEAVY = {"asyncio", "structlog", "hypercorn", "starlette", "anyio", *CLIENTS}


def test_importing_the_package_loads_next_to_nothing() -> None:
    loaded = _loaded("import understudy")

    assert not loaded & {*HEAVY, "trio", "msgspec", "cattrs", "sqlite3"}
    assert {name for name in loaded if name.startswith("understudy")} == {"understudy"}


def test_all_public_names_together_load_no_asyncio_and_no_broker_client() -> None:
    loaded = _loaded("import understudy\nfor n in understudy.__all__: getattr(understudy, n)")

    assert "understudy.supervisors.run" in loaded
    assert not loaded & HEAVY


def test_the_actor_alone_loads_neither_a_database_nor_a_supervisor() -> None:
    loaded = _loaded("from understudy import Actor, message_pattern, RpcError")

    assert "understudy.actors.actor" in loaded
    assert not loaded & {*HEAVY, "sqlite3", "understudy.supervisors"}


# -- packaging ----------------------------------------------------------------


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_the_package_holds_every_room(target: str) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = config["tool"]["hatch"]["build"]["targets"][target]["only-include"]
    files = [file.relative_to(ROOT) for file in HOUSE]
    left_out = [
        str(file)
        for file in files
        if not any(file == Path(entry) or Path(entry) in file.parents for entry in listed)
    ]

    assert not left_out, _list(left_out, f"add to only-include of the {target}:")


def test_the_wheel_lists_nothing_that_is_not_there() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = config["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]

    assert [entry for entry in listed if not (ROOT / entry).exists()] == []


def test_every_floor_is_moved_under_the_roof_in_the_wheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    moved = config["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]

    assert moved == {floor: f"understudy/{floor}" for floor in FLOORS}
    assert all((ROOT / "understudy" / floor).resolve() == ROOT / floor for floor in FLOORS)
