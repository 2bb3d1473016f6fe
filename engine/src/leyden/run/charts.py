"""Charts: a metric's name in the charts that all stages share, logarithmic axes, and PDF files."""

import re
from typing import Any, BinaryIO

# Words that denote a metric's stage. They are used only to draw curves of several stages in one chart.
STAGE_WORDS = {"train", "training", "fit", "val", "valid", "validation", "dev", "eval", "test", "testing"}
# Folders in a run directory with TensorBoard's event files: one for each stage, and one for the metrics of the best epoch.
STAGES = ("train", "val", "test")
BEST = "best"
EVENT_FOLDERS = (*STAGES, BEST)
# First parts of the tags that stages share in TensorBoard, which sorts charts by them and opens the first ones.
CHARTS, STEPS = "charts", "steps"


def chart_of(name: str) -> str:
    """Return the title of the chart that shows a metric's curves of all stages.

    Example:
        >>> [chart_of(name) for name in ("train/acc_epoch", "val_acc", "valid/acc/dataloader_idx_0", "acc.test")]
        ['acc', 'acc', 'acc', 'acc']
        >>> chart_of("val"), chart_of("f1_macro")
        ('val', 'f1_macro')
    """
    return without_stage(re.sub(r"/dataloader_idx_[0-9]+$", "", name).removesuffix("_step").removesuffix("_epoch"))


def without_stage(name: str) -> str:
    """Return a metric's name without the word that denotes its stage; the name itself if nothing else is left.

    Example:
        >>> without_stage("train/loss_step"), without_stage("val_acc"), without_stage("val")
        ('loss_step', 'acc', 'val')
    """
    words = re.split(r"(?<=[/_. -])|(?=[/_. -])", name)  # with the separators
    kept = next((words[:n] + words[n + 1 :] for n, word in enumerate(words) if word.lower() in STAGE_WORDS), words)
    return "".join(kept).strip("/_. -") or name


def chart_tag(name: str) -> str:
    """Return the tag of a metric, which is the same for all stages, so that one chart has all of their curves.

    The values of single steps have a chart of their own. Names without a word for the stage remain.

    Example:
        >>> chart_tag("train/loss"), chart_tag("val_loss"), chart_tag("train/loss_step"), chart_tag("lr")
        ('charts/loss', 'charts/loss', 'steps/loss', 'lr')
    """
    if (short := without_stage(name)) == name:
        return name
    return f"{STEPS}/{short.removesuffix('_step')}" if short.endswith("_step") else f"{CHARTS}/{short}"


def use_log_scale(axes: Any, name: str) -> None:
    """Scale an axis logarithmically, with plain numbers, and labels at 1, 2 and 5 only, since more would collide.

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
    """Write a figure of matplotlib as PDF, with TrueType fonts: journals refuse its default, Type 3."""
    from matplotlib import rc_context

    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf")
