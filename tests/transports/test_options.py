"""URLs and options: read at declaration, refused with what to write instead."""

import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import pytest
from attrs.validators import gt, in_

from understudy.actors.errors import DeclarationError
from understudy.transports.bridge import serve
from understudy.transports.client import connect
from understudy.transports.options import parse_options, parse_url, shown


@attrs.frozen(kw_only=True)
class Options:
    size: int = attrs.field(default=10, validator=gt(0))
    wait: float = 1.5
    tls: bool = False
    mode: Literal["fast", "safe"] = attrs.field(default="fast", validator=in_(("fast", "safe")))
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    decide: Callable[[str], bool] | None = None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", Options()),
        ("?size=5&wait=0.5", Options(size=5, wait=0.5)),
        ("?tls=yes&mode=safe", Options(tls=True, mode="safe")),
        ("?tls=0", Options(tls=False)),
    ],
    ids=["none", "numbers", "words", "off"],
)
def test_options_may_stand_in_the_url(query: str, expected: Options) -> None:
    assert parse_options(Options, f"tcp://host:1{query}", {}) == expected


def test_an_object_is_given_as_a_keyword() -> None:
    context = ssl.create_default_context()

    assert parse_options(Options, "tcp://host", {"context": context}).context is context
    assert parse_options(Options, "tcp://host", {"context": None}).context is None


def test_keywords_win_over_the_url() -> None:
    assert parse_options(Options, "tcp://host?size=5&wait=2", {"size": 7}) == Options(
        size=7, wait=2.0
    )


@pytest.mark.parametrize(
    ("query", "options", "text"),
    [
        ("?sice=5", {}, "there is no option 'sice'. Did you mean 'size'?"),
        (
            "",
            {"colour": 5},
            "there is no option 'colour'. "
            "There are: size, wait, tls, mode, context, headers, decide.",
        ),
        ("?size=x", {}, "the option 'size' must be of type int, got 'x'."),
        ("?tls=maybe", {}, "the option 'tls' must be of type bool, got 'maybe'."),
        ("?size=0", {}, "'size' must be > 0: 0"),
        ("", {"size": "5"}, "the option 'size' must be of type int, got str."),
        ("", {"size": True}, "the option 'size' must be of type int, got bool."),
        ("", {"mode": "slow"}, "'mode' must be in ('fast', 'safe') (got 'slow')"),
        ("?mode=slow", {}, "the option 'mode' must be one of 'fast', 'safe', got 'slow'."),
        ("", {"context": "yes"}, "the option 'context' must be of type SSLContext, got str."),
        *(
            (
                f"?{name}=s3cret",
                {},
                f"the option {name!r} is an object ({kind}), which no URL can hold; "
                "give it as a keyword.",
            )
            for name, kind in (
                ("context", "SSLContext"),
                ("headers", "Mapping"),
                ("decide", "function"),
            )
        ),
    ],
    ids=[
        "misspelt",
        "foreign",
        "no number",
        "no bool",
        "out of range",
        "text",
        "a bool",
        "no choice",
        "no choice in the URL",
        "no object",
        "an object in the URL",
        "a mapping in the URL",
        "a function in the URL",
    ],
)
def test_options_that_cannot_work_are_refused(
    query: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_options(Options, f"tcp://host:1{query}", options)

    assert str(caught.value).startswith(f"tcp://host:1: {text}")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("127.0.0.1:3001", "is no transport URL; one looks like tcp://127.0.0.1:3001."),
        ("", "is no transport URL; one looks like tcp://127.0.0.1:3001."),
        ("tcp://host:port", "tcp://host:port is no URL: Port could not be cast to integer"),
        ("tcp://host:70000", "tcp://host:70000 is no URL: Port out of range 0-65535."),
        (
            "carrier-pigeon://roof",
            "no transport for 'carrier-pigeon'. "
            "There are: amqp, amqps, grpc, grpcs, kafka, kafkas, memory, mqtt, mqtts, nats, "
            "redis, rediss, tcp, tcps, tls, ws, wss",
        ),
        ("tcp://:3001", "tcp://:3001 has no host; one looks like tcp://127.0.0.1:3001."),
        ("memory://?queue=1", "is no transport URL"),
    ],
    ids=["no scheme", "empty", "port", "range", "scheme", "no host", "no name"],
)
@pytest.mark.parametrize("declare", [serve, connect], ids=["serve", "connect"])
def test_a_url_that_cannot_work_is_refused(declare: Any, url: str, text: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare(url)

    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("url", "harmless"),
    [
        ("tcp://user:s3cret@host:1/path?token=s3cret", "tcp://host:1/path"),
        ("tcp://host:1#s3cret", "tcp://host:1"),
        ("user:s3cret@host?token=s3cret", "host"),
        ("tcp://user:s3cret@host:port", "tcp://host:port"),
        ("tcp://user:s3cret@[host", "tcp://[host"),
    ],
    ids=["login and token", "fragment", "no scheme", "bad port", "bad host"],
)
def test_a_url_is_shown_without_its_secrets(url: str, harmless: str) -> None:
    assert shown(url) == harmless


@pytest.mark.parametrize(
    "url",
    [
        "tcp://user:s3cret@host:port",
        "tcp://user:s3cret@[host",
        "user:s3cret@host",
        "tcp://user:s3cret@host?in_fligth=1",
        "tcp://user:s3cret@host?in_flight=x",
    ],
)
def test_errors_do_not_show_secrets(url: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        serve(url)

    assert "s3cret" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


def test_a_spec_is_shown_without_its_secrets() -> None:
    spec = serve("tcp://user:s3cret@host:1?in_flight=5", backlog=7)

    assert "s3cret" not in repr(spec)
    assert "url=tcp://host:1" in repr(spec)


def test_a_url_keeps_its_parts() -> None:
    parts = parse_url("tcp://[::1]:3001?in_flight=5")

    assert (parts.scheme, parts.hostname, parts.port) == ("tcp", "::1", 3001)
