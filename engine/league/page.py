"""Write the league's page and its picture from results.json: python engine/league/page.py."""

import json
from pathlib import Path
from xml.sax.saxutils import escape

from causes import CAUSES, cause_of
from table import FRAMEWORKS, SCENARIOS

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PAGE = DOCS / "league.md"
PICTURE = DOCS / "images" / "league.svg"
BEGIN = "<!-- from results.json, by league/page.py -->\n"
END = "<!-- end -->\n"
COLORS = {
    "same": "#2e7d32",
    "silent": "#c62828",
    "announced": "#f9a825",
    "unpromised": "#ef9a9a",
    "cannot": "#bdbdbd",
    "": "#f5f5f5",
}
WIDTH, HEIGHT, LEFT, TOP = 62, 26, 215, 130
HEAD = ("cell", *(f"`{key}`" for key in SCENARIOS))


def kind_of(cell):
    """Return how a cell is shown: the same, parting silently, against a promise or not, or announced."""
    if cell is None:
        return ""
    if cell["outcome"] in ("same", "cannot"):
        return cell["outcome"]
    if cell["outcome"] == "stops" or cell["says"]:
        return "announced"
    cause = cause_of(cell["framework"], cell["scenario"])
    return "silent" if cause is None or cause.is_promised else "unpromised"


def words_of(cell):
    """Return a cell's words in the table."""
    kind = kind_of(cell)
    if kind in ("", "same", "cannot"):
        return {"": "", "same": "same", "cannot": "none"}[kind]
    if cell["outcome"] == "stops":
        return "error"
    step = cell.get("step", "the end")
    return {"silent": f"**{step}**", "unpromised": f"({step})", "announced": f"{step}, said"}[kind]


def read_cells():
    """Return the cells by framework and scenario."""
    cells = json.loads((HERE / "results.json").read_text())
    return {(cell["framework"], cell["scenario"]): cell for cell in cells}


def picture(cells):
    """Return the picture of the table, as SVG."""
    width = LEFT + WIDTH * len(SCENARIOS) + 70
    height = TOP + HEIGHT * len(FRAMEWORKS) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for column, name in enumerate(SCENARIOS.values()):
        x = LEFT + WIDTH * column + WIDTH / 2
        turned = f'transform="rotate(-40 {x:g} {TOP - 8})"'
        parts.append(f'<text x="{x:g}" y="{TOP - 8}" {turned}>{escape(name)}</text>')
    for row, (key, framework) in enumerate(FRAMEWORKS.items()):
        y = TOP + HEIGHT * row
        parts.append(f'<text x="8" y="{y + 17}">{escape(framework.name)}</text>')
        for column, scenario in enumerate(SCENARIOS):
            cell = cells.get((key, scenario))
            place = f'x="{LEFT + WIDTH * column}" y="{y}" width="{WIDTH - 2}" height="{HEIGHT - 2}"'
            color = COLORS[kind_of(cell)]
            text = cell["text"] if cell else "not run"
            title = escape(f"{framework.name}, {SCENARIOS[scenario]}: {text}")
            parts.append(f'<rect {place} fill="{color}"><title>{title}</title></rect>')
    legend = "green: same bits · red: parts silently · light red: parts silently, and its pages"
    legend += " do not promise it · yellow: ends with an error · gray: has none"
    parts.append(f'<text x="8" y="{height - 10}">{legend}</text>')
    return "\n".join([*parts, "</svg>", ""])


def row(values):
    """Return a line of a table."""
    return f"| {' | '.join(values)} |"


def matrix(cells):
    """Return the table of outcomes."""
    lines = [row(HEAD), "|" + "---|" * len(HEAD)]
    for key in FRAMEWORKS:
        found = [words_of(cells.get((key, scenario))) for scenario in SCENARIOS]
        lines.append(row([f"`{key}`", *found]))
    return lines


def reasons():
    """Return the table of causes."""
    lines = [row(["why", "cells", "promised", "reproducer"]), "|---|---|---|---|"]
    for cause in CAUSES:
        places = [f"`{key}`: {', '.join(scenarios)}" for key, scenarios in cause.cells.items()]
        promised = "**yes**" if cause.is_promised else "no"
        reproducer = f"`{cause.reproducer}.py`" if cause.reproducer else "none yet"
        lines.append(row([cause.text, "; ".join(places), promised, reproducer]))
    return lines


def promises(cells):
    """Return the table of frameworks: their versions, and what their pages say."""
    lines = [row(["row", "versions", "saves each", "its pages"]), "|---|---|---|---|"]
    for key, framework in FRAMEWORKS.items():
        versions = {}
        for scenario in SCENARIOS:
            versions |= cells.get((key, scenario), {}).get("versions", {})
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        quote = f"[“{framework.quote}”]({framework.promise})"
        lines.append(row([f"{framework.name} (`{key}`)", named, framework.every, quote]))
    return lines


def table(cells):
    """Return the tables of the page."""
    dates = sorted({cell["date"] for cell in cells.values()})
    parts = [*matrix(cells), "", f"Run on {' and '.join(dates)}.", "", *reasons(), ""]
    return "\n".join([*parts, *promises(cells), ""])


def page(cells):
    """Return the page, with the table of these cells."""
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + table(cells) + END + tail


if __name__ == "__main__":
    found = read_cells()
    PICTURE.write_text(picture(found))
    PAGE.write_text(page(found))
