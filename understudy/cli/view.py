"""How running services look as text: pure, records as JSON in, lines out."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = ["HEAD", "Row", "ago", "heading", "rows_of", "summary", "table"]

Row = tuple[str, ...]

HEAD: Final[Row] = ("CHILD", "KIND", "STATE", "FOR", "RESTARTS", "MAIL", "")


def ago(seconds: float) -> str:
    """A duration of a service: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def summary(health: dict[str, Any]) -> str:
    """A service in one line: `shop:4711 is ready, up 3 min, 7 children`."""
    if health["ready"]:
        state = "ready"
    else:
        state = "not ready" if health["state"] == "running" else health["state"]
    total = health["total"]
    children = f"{total} {'child' if total == 1 else 'children'}"
    up = f"up {ago(health['seconds'])}, " if health["seconds"] else ""
    return f"{health['name']}:{health['pid']} is {state}, {up}{children}"


def heading(health: dict[str, Any]) -> list[str]:
    """The one line, and one for each reason why it is not ready."""
    letters = health["dead_letters"]["written"]
    word = "dead letter" if letters == 1 else "dead letters"
    more = f", {letters} {word} since its start" if letters else ""
    return [summary(health) + more, *(f"  {trouble}" for trouble in health["troubles"])]


def rows_of(health: dict[str, Any]) -> list[Row]:
    """The table of a service's children, its head first; children below their parents."""
    rows = [
        HEAD,
        (health["name"], "supervisor", health["state"], ago(health["seconds"]), "", "", ""),
    ]
    rows += [_row(child) for child in health["children"]]
    left_out = health["total"] - len(health["children"])
    if left_out > 0:
        rows.append((f"and {left_out} more", "", "", "", "", "", ""))
    return rows


def _row(child: dict[str, Any]) -> Row:
    *above, name = child["path"].split("/")
    mail = "" if child["waiting"] is None else f"{child['waiting']}/{child['capacity']}"
    return (
        "  " * len(above) + name,
        child["kind"],
        child["state"],
        ago(child["seconds"]),
        str(child["restarts"] or ""),
        mail,
        child["why"] or child["address"] or "",
    )


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines with columns of equal width."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in listed
    ]
