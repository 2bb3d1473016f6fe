"""Figures of matplotlib: texts, axes, and files for journals."""

from typing import Any, BinaryIO


def plain(text: str) -> str:
    """Return a text for matplotlib, which reads what is between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def use_log_scale(axes: Any, name: str) -> None:
    """Scale an axis logarithmically, with plain numbers, and labels at 1, 2 and 5 only.

    More labels would collide.

    Args:
        axes: Matplotlib's axes.
        name: `x` or `y`.
    """
    from matplotlib.ticker import LogLocator

    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    axes.tick_params(axis=name, which="both", labelsize=8)


def save_pdf(figure: Any, file: BinaryIO) -> None:
    """Write a figure of matplotlib as PDF, with TrueType fonts, as journals refuse Type 3."""
    from matplotlib import rc_context

    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf")
