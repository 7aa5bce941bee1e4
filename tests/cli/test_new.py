"""`understudy new`: what it makes works, and what it cannot make it refuses."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from understudy.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", ["shop", "web-shop2"])
def test_its_tests_pass_without_a_warning_and_it_has_no_faults(
    folder: Path, capsys: Capture, name: str
) -> None:
    (folder / "shop.py").unlink()

    assert main(["new", name]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    tests = subprocess.run(command, cwd=folder / name, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout
    assert "3 passed" in tests.stdout
    package = name.replace("-", "_")
    check = [sys.executable, "-m", "understudy.cli", "check", f"{package}.service:tree"]
    assert subprocess.run(check, cwd=folder / name).returncode == 0


def test_what_is_made_has_its_names_and_no_other_words(folder: Path) -> None:
    assert main(["new", "bakery", "--serve", "nats://127.0.0.1:4222"]) == 0

    made = folder / "bakery"
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    assert files == {
        "pyproject.toml",
        "README.md",
        ".gitignore",
        "bakery/__init__.py",
        "bakery/orders.py",
        "bakery/service.py",
        "tests/test_orders.py",
    }
    config = tomllib.loads((made / "pyproject.toml").read_text())
    assert config["project"]["dependencies"] == ["understudy[nats]"]
    service = (made / "bakery" / "service.py").read_text()
    assert 'os.environ.get("BAKERY_URL", "nats://127.0.0.1:4222")' in service
    texts = [(made / file).read_text() for file in files]
    assert not any(word in text for text in texts for word in ("@NAME", "@PACKAGE", "@URL"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("../shop", "'../shop' cannot name a service: small letters and digits expected"),
        ("Shop", "small letters and digits expected"),
        ("7up", "small letters and digits expected"),
        ("json", "Python has another meaning for 'json'. Take another name, such as json-service."),
        ("class", "Python has another meaning for 'class'"),
        ("understudy", "Python has another meaning for 'understudy'"),
    ],
)
def test_a_name_that_cannot_be_is_78(folder: Path, capsys: Capture, name: str, text: str) -> None:
    assert main(["new", name]) == 78

    assert text in capsys.readouterr().err
    assert {one.name for one in folder.iterdir()} == {"shop.py"}


@pytest.mark.parametrize("url", ["nats", "pigeon://here", 'tcp://"+exit()+"', "tcp://a\\b"])
def test_a_url_that_cannot_be_is_78(folder: Path, capsys: Capture, url: str) -> None:
    assert main(["new", "bakery", "--serve", url]) == 78

    assert "a URL expected that begins with one of " in capsys.readouterr().err
    assert not (folder / "bakery").exists()


def test_nothing_that_is_there_is_overwritten(folder: Path, capsys: Capture) -> None:
    (folder / "bakery").mkdir()
    (folder / "bakery" / "README.md").write_text("mine")

    assert main(["new", "bakery"]) == 78
    assert "there is a 'bakery' here already. Take another name" in capsys.readouterr().err
    assert (folder / "bakery" / "README.md").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_where_nothing_can_be_made_is_78(folder: Path, capsys: Capture) -> None:
    folder.chmod(0o500)

    assert main(["new", "bakery"]) == 78
    assert "'bakery' cannot be made: " in capsys.readouterr().err
