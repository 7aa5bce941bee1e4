"""`understudy run`: from a name to a tree, and from wrong names to helpful errors."""

from pathlib import Path

import pytest

from understudy.actors.errors import DeclarationError
from understudy.cli.main import main
from understudy.cli.run import find_tree
from understudy.supervisors.child import Supervisor

from .conftest import Shop

Capture = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("folder")
def test_a_tree_is_found_by_module_and_name() -> None:
    tree = find_tree("shop:tree")

    assert isinstance(tree, Supervisor)
    assert tree.name == "shop"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop", "'shop': module:tree expected, such as shop:tree."),
        ("shpo:tree", "there is no module 'shpo' in {folder} or on the path. Did you mean shop?"),
        ("shop:tre", "the module 'shop' has no 'tre'. Did you mean tree?"),
        ("shop:zzz", "the module 'shop' has no 'zzz'. Did you mean tree?"),
        ("shop:no_tree", "shop:no_tree is a class, not a Supervisor. It has tree."),
    ],
    ids=["no colon", "no module", "a near name", "no near name", "no supervisor"],
)
def test_a_wrong_name_is_78_and_says_what_there_is(
    folder: Path, capsys: Capture, name: str, message: str
) -> None:
    assert main(["run", name]) == 78

    assert capsys.readouterr().err == f"understudy: {message.format(folder=folder)}\n"


@pytest.mark.usefixtures("folder")
def test_a_mistake_in_the_module_is_one_sentence(folder: Path, capsys: Capture) -> None:
    (folder / "mistaken.py").write_text(
        "from understudy.supervisors.child import Supervisor\ntree = Supervisor('a/b')\n"
    )

    assert main(["run", "mistaken:tree"]) == 78
    assert capsys.readouterr().err.startswith("understudy: 'a/b' cannot name a child")


@pytest.mark.parametrize(
    ("source", "error"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("import nowhere", "'nowhere'")],
    ids=["an exception", "an import of its own"],
)
def test_a_module_that_fails_shows_its_traceback(
    folder: Path, capsys: Capture, source: str, error: str
) -> None:
    (folder / f"broken{len(source)}.py").write_text(source)

    with pytest.raises(DeclarationError, match="cannot be imported, see above"):
        find_tree(f"broken{len(source)}:tree")
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert error in err


def test_a_service_runs_drains_and_ends_with_0(tmp_path: Path) -> None:
    service = Shop(tmp_path)

    assert service.stop() == 0
    assert service.store.exists()
