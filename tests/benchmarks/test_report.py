"""The report of the benchmarks, made from given figures: nothing is measured here."""

from pathlib import Path

import pytest

from benchmarks.report import Report
from benchmarks.results import Bar, Machine, Result, Run, kept, load

pytest.importorskip("pygal", reason="needs the extra: pip install -e '.[bench]'")
from benchmarks.page import page, write

MACHINE = Machine(
    python="CPython 3.11.7",
    system="Linux",
    processor="a processor",
    cpus=2,
    versions={"trio": "0.30"},
    busy=0.4,
)
FIGURES = {"understudy": 300.0, "pykka": 100.0}


def run(*bars: Bar) -> Run:
    result = Result("ask <one caller>", "asks/s", FIGURES, bars)
    return Run("answers", "How long `ask` takes.", "2026-01-02 03:04 UTC", MACHINE, (result,))


def test_the_page_is_made_from_the_files_that_benchmarks_leave(tmp_path: Path) -> None:
    kept((run(Bar("understudy", "pykka", 2)),), tmp_path)

    text = write(tmp_path).read_text()

    for shown in ("3.00 &times;", "ask &lt;one caller&gt;", "at least 2", "<code>ask</code>"):
        assert shown in text
    assert "CPython 3.11.7, 2 CPUs (a processor)" in text


@pytest.mark.parametrize(
    ("bar", "shown"),
    [
        (Bar("understudy", "pykka", 3), ">reached<"),
        (Bar("understudy", "pykka", 3.01), ">MISSED<"),
        (Bar("understudy", "pykka", 2.99, at_most=True), ">MISSED<"),
        (Bar("understudy", None, 299, at_most=True), ">MISSED<"),
        (Bar("understudy", "tractor", 2), ">not measured<"),
        (Bar("understudy", "pykka"), ">no bar<"),
    ],
    ids=["reached", "missed", "at most", "no peer", "peer not measured", "ratio only"],
)
def test_a_bar_is_shown_as_what_became_of_it(bar: Bar, shown: str) -> None:
    assert page([run(bar)]).count(shown) == 1


def test_a_chart_shows_every_figure_with_its_name() -> None:
    chart = page([run()]).partition("<svg")[2].partition("</svg>")[0]

    for shown in ("understudy", "pykka", "300", "100"):
        assert f"{shown}</text>" in chart


def test_benchmarks_that_have_not_run_are_named() -> None:
    assert "Not measured: Messages within a process, Streams" in page([run()])


def test_a_busy_machine_is_told() -> None:
    assert "answers (40%)" in page([run()])


def test_the_page_loads_nothing() -> None:
    text = page([run()])

    assert not [word for word in ("<script", "<link", "<img", "src=", "@import") if word in text]


def test_a_run_is_added_to_those_before(tmp_path: Path) -> None:
    for figure in (1.0, 2.0):
        report = Report("answers", "", tmp_path, MACHINE)
        report.show(Result("asks", "asks/s", {"understudy": figure}))

    figures = [run.results[0].figures["understudy"] for run in load("answers", tmp_path)]
    assert figures == [1.0, 2.0]


@pytest.mark.parametrize(("factor", "good"), [(3, True), (4, False)])
def test_a_report_is_good_while_every_bar_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, good: bool
) -> None:
    report = Report("answers", "", tmp_path, MACHINE)
    report.show(Result("asks", "asks/s", FIGURES, (Bar("understudy", "pykka", factor),)))

    assert report.good is good
    assert ("MISSED" in capsys.readouterr().out) is not good
