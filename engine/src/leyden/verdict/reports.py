"""The form of all verdicts: a table with lines below it, as text, Markdown, LaTeX or JSON."""

import html
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from leyden.verdict.groups import Group
from leyden.verdict.numbers import printable_value

TextRow = Sequence[str]
IN_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "≈": r"$\approx$", "~": r"\textasciitilde{}"}
IN_LATEX |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"}
IN_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"|": r"\textbar{}"}
IN_MARKDOWN = r"\`*_[]<>&$~|"  # signs that would be more than text


class Report:
    """A verdict: `str` gives the text, `rows` what a data frame takes."""

    def parts(self) -> Mapping[Hashable, "Report"]:
        """Return the verdict on each data set, by its name; none if there is one alone."""
        return {}

    def cells(self) -> list[TextRow]:
        """Return the table's rows as texts, its header first; none if it has no table."""
        return []

    def lines(self) -> list[str]:
        """Return the sentences below the table."""
        return []

    def rows(self) -> list[dict[str, Any]]:
        """Return the table's rows as values by column, for a data frame."""
        found = []
        for name, part in self.parts().items():
            found += [{"over": name, **row} for row in part.rows()]
        return found

    def contents(self) -> dict[str, Any]:
        """Return all of it as nested values, for JSON."""
        sets = {str(name): part.contents() for name, part in self.parts().items()}
        return {"sets": sets, "over": self.facts()}

    def facts(self) -> dict[str, Any]:
        """Return what is found over all data sets, for JSON."""
        return {}

    def compared(self) -> list[Sequence[Group]]:
        """Return the settings that are compared with each other, those of each data set apart."""
        found: list[Sequence[Group]] = []
        for part in self.parts().values():
            found += part.compared()
        return found

    def in_format(self, form: str) -> str:
        """Return the text in a format: `table`, `markdown` or `latex`."""
        escaped = ESCAPED[form]
        texts = []
        for name, part in self.parts().items():
            texts.append(f"{escaped(str(name))}\n{part.in_format(form)}")
        own = []
        cells = self.cells()
        if cells:
            own += FORMS[form](cells)
        if form != "table":
            own.append("")
        own += map(escaped, self.lines())
        texts.append("\n".join(own))
        return "\n\n".join(texts)

    def __str__(self) -> str:
        """Return the table and the sentences below it."""
        return self.in_format("table")

    def _repr_html_(self) -> str:
        """Return the text as a notebook shows it."""
        return f"<pre>{html.escape(str(self))}</pre>"


def aligned_lines(rows: Sequence[TextRow]) -> list[str]:
    """Return rows of texts as lines with aligned columns.

    `table_lines` of `base.table` formats values and fits a terminal, which takes rich.
    """
    shown = []
    for cells in rows:
        shown.append([*map(printable_value, cells)])
    widths = []
    for column in zip(*shown, strict=True):
        widths.append(max(map(len, column)))
    lines = []
    for cells in shown:
        padded = map(str.ljust, cells, widths)
        lines.append("  ".join(padded).rstrip())
    return lines


def _markdown_lines(rows: Sequence[TextRow]) -> list[str]:
    lines = []
    for cells in rows:
        inner = " | ".join(map(_in_markdown, cells))
        lines.append(f"| {inner} |")
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return lines


def _in_markdown(text: str) -> str:
    shown = printable_value(text)
    return "".join(f"\\{sign}" if sign in IN_MARKDOWN else sign for sign in shown)


def _latex_lines(rows: Sequence[TextRow]) -> list[str]:
    """Return a table in LaTeX, with the rules of the package booktabs."""
    lines = [r"\begin{tabular}{" + "l" * len(rows[0]) + "}", r"\toprule"]
    for cells in rows:
        inner = " & ".join(map(_in_latex, cells))
        if inner.startswith(("[", "*")):  # an option of the row above
            inner = "{}" + inner
        lines.append(rf"{inner} \\")
    lines.insert(3, r"\midrule")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _in_latex(text: str) -> str:
    shown = printable_value(text)
    return "".join(IN_LATEX.get(sign, sign) for sign in shown)


Form = Callable[[Sequence[TextRow]], list[str]]
FORMS: dict[str, Form] = {
    "table": aligned_lines,
    "markdown": _markdown_lines,
    "latex": _latex_lines,
}
ESCAPED: dict[str, Callable[[str], str]] = {
    "table": printable_value,
    "markdown": _in_markdown,
    "latex": _in_latex,
}
