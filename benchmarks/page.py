"""The report: one page of all benchmarks, from the JSON files that they have left.

`python -m benchmarks.page` writes build/bench/report.html. The page stands alone: style
and charts are in it, and nothing is loaded from anywhere. It shows the newest run of
each benchmark, ratios first, then each table with its chart, and says what was measured,
when, with which Python and on how many CPUs. It measures nothing itself.
"""

import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from benchmarks.charts import chart
from benchmarks.report import bar_text, figure_text
from benchmarks.results import FOLDER, Bar, Result, Run, judge, load

__all__ = ["BENCHMARKS", "page", "write"]

BENCHMARKS: Final = {
    "mailbox": "Messages within a process",
    "answers": "Latency of an answer",
    "streams": "Streams",
    "idle": "Idle actors",
    "trees": "Large trees",
    "dead_letters": "Dead letters",
    "tcp": "TCP, beside NestJS",
    "websocket": "WebSocket, beside trio-websocket",
    "grpc_unary": "gRPC, beside grpc.aio",
    "brokers": "Brokers, beside their clients, FastStream and NestJS",
}
"""All benchmarks, in the order in which they run and are shown, with their headings."""

BUSY: Final = 0.1
"""The share of the CPUs from which on a reader is told that other programs were running."""

_STYLE: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: #fff;
  color: #0f172a; font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; }
h2 { margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 2px solid #e2e8f0; }
h3 { margin: 2rem 0 .25rem; font-size: 1.05rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: #0f766e; } code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; }
.quiet { color: #475569; font-size: .92rem; }
.warn { background: #fef9c3; border-left: 4px solid #ca8a04; padding: .5rem .9rem; }
table { border-collapse: collapse; width: 100%; margin: .75rem 0; font-size: .92rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #cbd5e1; }
td, th { padding: .3rem .6rem .3rem 0; vertical-align: top; }
td { border-bottom: 1px solid #e2e8f0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.ratio { font-weight: 700; }
.mark { border-radius: 1rem; padding: .05rem .6rem; font-size: .82rem; white-space: nowrap; }
.reached { background: #ccfbf1; color: #115e59; }
.missed { background: #fee2e2; color: #991b1b; font-weight: 700; }
.none { background: #f1f5f9; color: #475569; }
figure { margin: .5rem 0; }
figure svg { width: 100%; height: auto; display: block; }
pre { white-space: pre-wrap; font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace;
  background: #f8fafc; padding: .6rem .9rem; }
"""

_MARKS: Final = {"reached": "reached", "MISSED": "missed", "not measured": "missed"}


def page(runs: Sequence[Run]) -> str:
    """The whole page, from one run of each benchmark that has run."""
    rows = [
        _ratio_row(run, result, bar)
        for run in runs
        for result in run.results
        for bar in result.bars
    ]
    missing = [
        heading
        for name, heading in BENCHMARKS.items()
        if name not in {run.benchmark for run in runs}
    ]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>understudy: benchmarks</title><style>{_STYLE}</style></head><body>",
        "<h1>understudy: benchmarks</h1>",
        *_machines(runs),
        _paragraph(f"Not measured: {', '.join(missing)}.", "warn") if missing else "",
        _table(("what", "figure of", "ratio", "against", "bar", ""), rows),
        *(part for run in runs for part in _section(run)),
        "</body></html>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def write(folder: Path = FOLDER) -> Path:
    """Make the page from what is in `folder`; returns where it is."""
    found = [load(name, folder) for name in BENCHMARKS]
    file = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(page([runs[-1] for runs in found if runs]), encoding="utf-8")
    return file


def _machines(runs: Sequence[Run]) -> list[str]:
    """Where all this was measured, once for each machine there was."""
    lines: list[str] = []
    for run in runs:
        machine = run.machine
        versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
        line = (
            f"{machine.python}, {machine.cpus} CPUs ({machine.processor}), {machine.system}; "
            f"{versions}."
        )
        if line not in lines:
            lines.append(line)
    parts = [_paragraph(line, "quiet") for line in lines]
    busy = [run for run in runs if (run.machine.busy or 0) > BUSY]
    if busy:
        shares = ", ".join(f"{run.benchmark} ({run.machine.busy:.0%})" for run in busy)
        text = (
            f"Other programs had a share of the CPUs when these began: {shares}. Ratios, taken in "
            "turns, suffer less from that than figures do. Run them again when it is quiet."
        )
        parts.append(_paragraph(text, "warn"))
    how = (
        "Ratios are of figures taken in one run, in turns, so that what disturbs one disturbs "
        "all. The log is off, the garbage collector on, and so is all that keeps messages safe."
    )
    return [*parts, _paragraph(how, "quiet")]


def _ratio_row(run: Run, result: Result, bar: Bar) -> Sequence[str]:
    verdict = judge(result, bar)
    unit = f" {result.unit}" if bar.peer is None else " &times;"
    value = "&ndash;" if verdict.value is None else f"{_ratio(verdict.value)}{unit}"
    better = " (less is better)" if result.less_is_better else ""
    mark = f'<span class="mark {_MARKS.get(verdict.outcome, "none")}">{verdict.outcome}</span>'
    return (
        f'<td><a href="#{escape(run.benchmark)}">{escape(result.title)}</a>{better}</td>',
        f"<td>{escape(bar.subject)}</td>",
        f'<td class="number ratio">{value}</td>',
        f"<td>{escape(bar.peer or '') or '&ndash;'}</td>",
        f'<td class="number">{escape(bar_text(result, bar)) or "&ndash;"}</td>',
        f"<td>{mark}</td>",
    )


def _section(run: Run) -> list[str]:
    parts = [
        f'<h2 id="{escape(run.benchmark)}">{escape(BENCHMARKS.get(run.benchmark, run.benchmark))}'
        "</h2>",
        *_about(run.about),
        _paragraph(f"Measured {run.at}.", "quiet"),
    ]
    for result in run.results:
        better = "less is better" if result.less_is_better else "more is better"
        rows = [
            (f"<td>{escape(name)}</td>", f'<td class="number">{figure_text(figure)}</td>')
            for name, figure in result.figures.items()
        ]
        parts += [
            f"<h3>{escape(result.title)} <span class='quiet'>({escape(result.unit)}, {better})"
            "</span></h3>",
            _paragraph(result.note, "quiet") if result.note else "",
            f"<figure>{chart(result)}</figure>" if result.figures else "",
            "<details><summary class='quiet'>Figures</summary>"
            + _table(("", result.unit), rows)
            + "</details>",
        ]
    return parts


def _about(text: str) -> list[str]:
    """A module's own words: paragraphs, and what is indented as it stands."""
    parts: list[str] = []
    for block in filter(None, map(str.rstrip, text.strip("\n").split("\n\n"))):
        if block.startswith("    "):
            parts.append(f"<pre>{escape(block.strip())}</pre>")
        else:
            words = escape(" ".join(block.split()))
            parts.append("<p>" + re.sub("`([^`]+)`", r"<code>\1</code>", words) + "</p>")
    return parts


def _paragraph(text: str, kind: str = "") -> str:
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{escape(text)}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = {"ratio", "bar"}
    head = "".join(
        f'<th class="number">{h}</th>'
        if h in numbers or (not heads[0] and h)
        else f"<th>{escape(h)}</th>"
        for h in heads
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    if not FOLDER.exists():
        sys.exit("There is nothing to report: run `make bench`, or any of the benchmarks.")
    print(f"report: {write()}")
