"""Names of metrics: the word for their stage, and the chart that shows them."""

import re

# The stages whose metrics are logged, each with a folder of TensorBoard's event files; another
# folder has those of the best epoch. A stage beyond these three is evaluated at the end of a run if
# its data have a dataloader of its name.
STAGES = ("train", "val", "test")
# Words that denote a metric's stage. They are used only to draw curves of several stages in one
# chart.
STAGE_WORDS = {*STAGES, "training", "fit", "valid", "validation", "dev", "eval", "testing"}
BEST = "best"
# First parts of the tags that stages share in TensorBoard, which sorts charts by them and opens the
# first ones.
CHARTS = "charts"
STEPS = "steps"


def chart_of(name: str) -> str:
    """Return the title of the chart that shows a metric's curves of all stages.

    Example:
        >>> names = ("train/acc_epoch", "val_acc", "valid/acc/dataloader_idx_0", "acc.test")
        >>> [chart_of(name) for name in names]
        ['acc', 'acc', 'acc', 'acc']
        >>> chart_of("val"), chart_of("f1_macro")
        ('val', 'f1_macro')
    """
    whole = re.sub(r"/dataloader_idx_[0-9]+$", "", name)
    return without_stage(whole.removesuffix("_step").removesuffix("_epoch"))


def without_stage(name: str) -> str:
    """Return a metric's name without the word that denotes its stage.

    It is the name itself if nothing else is left.

    Example:
        >>> without_stage("train/loss_step"), without_stage("val_acc"), without_stage("val")
        ('loss_step', 'acc', 'val')
    """
    words = re.split(r"(?<=[/_. -])|(?=[/_. -])", name)  # with the separators
    for number, word in enumerate(words):
        if word.lower() in STAGE_WORDS:
            del words[number]
            break
    return "".join(words).strip("/_. -") or name


def chart_tag(name: str) -> str:
    """Return the tag of a metric, the same for all stages, so that one chart has all their curves.

    The values of single steps have a chart of their own. Names without a word for the stage remain.

    Example:
        >>> [chart_tag(name) for name in ("train/loss", "val_loss", "train/loss_step", "lr")]
        ['charts/loss', 'charts/loss', 'steps/loss', 'lr']
    """
    short = without_stage(name)
    if short == name:
        return name
    if short.endswith("_step"):
        return f"{STEPS}/{short.removesuffix('_step')}"
    return f"{CHARTS}/{short}"
