"""The one line of a program that an exception or a stack stands for."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from understudy.actors.pattern import route_of
from understudy.supervisors.place import place_of


def _here() -> str:
    return f"test_place.py:{_fails.__code__.co_firstlineno + 1} in _fails"


def _fails() -> None:
    raise ValueError("boom")


def _caught(function: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def test_the_place_is_the_line_that_raised() -> None:
    assert place_of(_caught(_fails)) == _here()


def test_inside_of_a_library_the_place_is_the_line_that_called_it() -> None:
    def reads() -> None:
        json.loads("{")

    assert place_of(_caught(reads)).endswith("in reads")


def test_inside_of_this_package_the_place_is_the_line_that_called_it() -> None:
    def routes() -> None:
        route_of(object())  # type: ignore[arg-type]

    assert place_of(_caught(routes)).endswith("in routes")


def test_a_program_that_is_installed_is_told_from_its_libraries() -> None:
    space: dict[str, Any] = {"__name__": "shop.orders", "json": json}
    code = "def place():\n    json.loads('{')\n"
    exec(compile(code, f"{json.__file__.rpartition('/')[0]}/orders.py", "exec"), space)
    error = _caught(space["place"])
    # What called it is this test, a program that is not installed.
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next

    assert place_of(error) == "orders.py:2 in place"


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert place_of(ValueError("boom")) == ""
