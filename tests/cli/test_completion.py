"""`understudy completion`: what a shell offers, in the shell itself where there is one."""

import shutil
import subprocess
from functools import cache

import pytest

from understudy.cli.main import main

from ..missing import missing

Capture = pytest.CaptureFixture[str]


@cache
def _script(shell: str) -> str:
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as out:
        assert main(["completion", shell]) == 0
    return out.getvalue()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["sta"], {"status"}),
        (["dead-letters", ""], {"list", "show", "replay", "discard", "-h", "--help"}),
        (["dead-letters", "replay", "--w"], {"--wait"}),
        (["run", "--log-format", ""], {"auto", "text", "json"}),
        (["run", "--re"], {"--reload", "--reload-dir"}),
        (["status", "shop", "--j"], {"--json"}),
        (["completion", ""], {"bash", "zsh", "fish", "-h", "--help"}),
        (["send", "tcp://x", "--dialect", "nest"], {"nest", "nestrs"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_offers_commands_options_and_choices(line: list[str], offered: set[str]) -> None:
    words = " ".join(f"'{word}'" for word in line)
    program = (
        f"{_script('bash')}\nCOMP_WORDS=(understudy {words}); COMP_CWORD={len(line)}; _understudy\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


def test_bash_offers_files_for_what_takes_a_value() -> None:
    program = (
        f"cd /usr\n{_script('bash')}\nCOMP_WORDS=(understudy run --reload-dir bi); COMP_CWORD=3\n"
        '_understudy; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)

    assert "bin" in done.stdout.split()


def test_zsh_uses_the_same_with_its_own_head() -> None:
    assert _script("zsh").startswith("#compdef understudy\nautoload -U +X bashcompinit")
    assert _script("zsh").endswith(_script("bash"))


def test_fish_knows_every_command_with_its_help() -> None:
    lines = _script("fish").splitlines()

    for name in ("new", "check", "run", "status", "top", "send", "dead-letters", "completion"):
        assert any(f" -a {name} -d '" in line for line in lines), name
    wait = next(line for line in lines if "-l wait" in line)
    assert (
        "__fish_seen_subcommand_from dead-letters; and __fish_seen_subcommand_from replay" in wait
    )


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_is_one_of_that_shell(shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        missing(f"{shell} is missing (Debian: apt-get install {shell})")
    subprocess.run([found, "-n"], input=_script(shell), text=True, check=True)


def test_an_unknown_shell_is_told_which_there_are(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "csh"])

    assert "'csh' (choose from 'bash', 'fish', 'zsh')" in capsys.readouterr().err
