"""`send`, `emit` and `stream`, against a real service over TCP."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.cli.main import main

from ..brokers.broker import Address
from .conftest import Shop

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [(['{"cmd": "sum"}', "[1, 2, 3]"], "6\n"), (["nothing"], "null\n")],
    ids=["a pattern as JSON", "no data and no value"],
)
def test_send_prints_the_answer_as_json(
    shop: Shop, capsys: Capture, arguments: list[str], answer: str
) -> None:
    assert main(["send", shop.url, *arguments]) == 0

    assert capsys.readouterr().out == answer


def test_the_dialect_can_be_chosen(shop: Shop, capsys: Capture) -> None:
    assert main(["send", shop.url, "nothing", "null", "--dialect", "nestrs"]) == 0

    assert capsys.readouterr().out == "null\n"


def test_an_error_of_the_service_is_json_on_stderr_and_1(shop: Shop, capsys: Capture) -> None:
    assert main(["send", shop.url, "refuse"]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {"status": 404, "message": "no such till"}


def test_no_answer_in_time_is_69(shop: Shop, capsys: Capture) -> None:
    assert main(["send", shop.url, "slow", "--timeout", "0.1"]) == 69

    assert "no answer to 'slow' within 0.1 s" in capsys.readouterr().err


def test_nobody_there_is_69(capsys: Capture) -> None:
    assert main(["emit", "tcp://127.0.0.1:1", "paid", "7"]) == 69

    assert capsys.readouterr().err.startswith("understudy: tcp://127.0.0.1:1: ")


def test_a_url_without_transport_is_78(capsys: Capture) -> None:
    assert main(["send", "pigeon://127.0.0.1", "paid"]) == 78

    assert "no transport for 'pigeon'" in capsys.readouterr().err


def test_stream_prints_one_item_a_line(shop: Shop, capsys: Capture) -> None:
    assert main(["stream", shop.url, "count", "3"]) == 0

    out = capsys.readouterr().out
    assert out == '{"number":0}\n{"number":1}\n{"number":2}\n'


def test_data_may_come_from_stdin(
    shop: Shop, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("[40, 2]"))

    assert main(["send", shop.url, '{"cmd": "sum"}', "-"]) == 0
    assert capsys.readouterr().out == "42\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["orders.find", "{id: 7}"], "'{id: 7}' is not JSON"),
        (["orders.find", "seven"], "A text needs its quotes: '\"text\"'."),
        (["{cmd: sum}"], "'{cmd: sum}' is not JSON"),
        (["orders.find", "--timeout", "soon"], "'soon': a number of seconds above zero expected"),
        (["orders.find", "--timeout", "0"], "'0': a number of seconds above zero expected"),
    ],
    ids=["data", "an unquoted text", "a pattern", "a word for a time", "no time"],
)
def test_wrong_usage_is_2_and_says_what_is_expected(
    capsys: Capture, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["send", "tcp://127.0.0.1:1", *arguments])

    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_option_of_the_transport_can_be_given(shop: Shop, capsys: Capture) -> None:
    option = ["--option", "dialect=nestrs", "--option", "frame_limit=100000"]

    assert main(["send", shop.url, '{"cmd": "sum"}', "[1, 2]", *option]) == 0
    assert capsys.readouterr().out == "3\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("dialct=nest", "there is no option 'dialct'. Did you mean 'dialect'?"),
        ("frame_limit=much", "the option 'frame_limit' must be of type int, got 'much'"),
    ],
    ids=["an unknown name", "a wrong value"],
)
def test_a_wrong_option_is_78(shop: Shop, capsys: Capture, option: str, text: str) -> None:
    assert main(["send", shop.url, "nothing", "--option", option]) == 78

    assert text in capsys.readouterr().err


def test_headers_where_there_are_none_are_78(shop: Shop, capsys: Capture) -> None:
    assert main(["emit", shop.url, "paid", "7", "--header", "trace=1"]) == 78

    assert "messages have no headers there" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["dialect", "=nest"])
def test_an_option_without_name_or_value_is_wrong_usage(capsys: Capture, pair: str) -> None:
    with pytest.raises(SystemExit):
        main(["send", "tcp://127.0.0.1:1", "nothing", "--option", pair])

    assert f"{pair!r}: NAME=VALUE expected" in capsys.readouterr().err


def test_headers_go_along_where_the_transport_has_them(
    nats_broker: Address, folder: Path, capsys: Capture
) -> None:
    (folder / "mail.py").write_text(
        "from understudy import Actor, MessageContext, Supervisor, child, message_pattern, serve\n"
        "class Mail(Actor):\n"
        "    @message_pattern('who')\n"
        "    async def who(self, name: str, context: MessageContext) -> str:\n"
        "        return f\"{context.headers['from']}, {name}\"\n"
        f"tree = Supervisor('mail', [child(Mail), serve({nats_broker.url!r}, prefix='cli')])\n"
    )
    command = [sys.executable, "-m", "understudy.cli", "run", "mail:tree", "--log-format", "text"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("mail is up" in line for line in process.stderr)
            options = ["--option", "prefix=cli", "--header", "from=Ada & Co"]
            code = main(["send", nats_broker.url, "who", '"Bob"', *options])
        finally:
            process.kill()

    assert (code, capsys.readouterr().out) == (0, '"Ada & Co, Bob"\n')
