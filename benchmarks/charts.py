"""Charts of results: inline SVG by pygal, chosen because it writes SVG itself and alone
(no numpy, no fonts, no script in the page). It is imported here only.

A chart is one row of bars: ours in one colour, peers in grey, each with its figure.
Bars begin at zero and are linear, also where one all but vanishes: that is the finding.
"""

import sys
from typing import Final
from xml.etree.ElementTree import Element

import pygal
from pygal.style import Style

from benchmarks.report import figure_text
from benchmarks.results import Result

# pygal finds plugins by an import hook that Python has warned of since 3.10; none is used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]

__all__ = ["chart"]

OURS: Final = "#0f766e"
PEER: Final = "#94a3b8"
_WIDTH: Final = 860
_ROW: Final = 40
_CSS: Final = "{{ id }} .text-overlay text.value { text-anchor: start !important; }"
"""pygal puts a figure across the end of its bar; here it begins there."""

_STYLE: Final = Style(
    background="transparent",
    plot_background="transparent",
    foreground="#334155",
    foreground_strong="#0f172a",
    foreground_subtle="#cbd5e1",
    guide_stroke_color="#e2e8f0",
    major_guide_stroke_color="#e2e8f0",
    opacity=1,
    opacity_hover=1,
    font_family="system-ui, 'DejaVu Sans', sans-serif",
    label_font_size=14,
    major_label_font_size=14,
    value_font_size=14,
    value_colors=("#0f172a",),
    tooltip_font_size=14,
    no_data_font_size=16,
)


def chart(result: Result) -> str:
    """The SVG of one result, to stand in a page; a result without figures has none."""
    if not result.figures:
        return ""
    names = list(result.figures)
    bars = pygal.HorizontalBar(
        style=_STYLE,
        css=("file://style.css", "file://graph.css", f"inline:{_CSS}"),
        js=(),
        width=_WIDTH,
        height=_ROW * len(names) + 24,
        disable_xml_declaration=True,
        show_legend=False,
        # pygal turns the chart round, so that y is where the names are.
        show_x_labels=False,
        show_x_guides=False,
        show_y_guides=False,
        truncate_label=-1,
        margin=4,
        spacing=6,
        # Room for the figure behind the longest bar.
        range=(0, max(result.figures.values()) * 1.16 or 1),
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: f"\N{NO-BREAK SPACE}{figure_text(value)}",
    )
    # Rows are drawn from the bottom up.
    bars.x_labels = names[::-1]
    points = [{"value": result.figures[name], "color": _colour(name)} for name in names]
    bars.add(result.unit, points[::-1])
    bars.add_xml_filter(_without_scripts)
    svg: str = bars.render(is_unicode=True)
    return svg


def _without_scripts(svg: Element) -> Element:
    # pygal writes its settings for a script that this page does not load.
    for parent in list(svg.iter()):
        for script in parent.findall("script"):
            parent.remove(script)
    return svg


def _colour(name: str) -> str:
    # In a table of sizes ("10 actors") all rows are ours.
    return OURS if name.startswith("understudy") or name[:1].isdigit() else PEER
