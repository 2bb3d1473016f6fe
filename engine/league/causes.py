"""Why cells of the table are not green: one entry for each cause, with its reproducer."""

from dataclasses import dataclass

_RANDOM = ("shuffle", "workers", "numpy", "random", "dropout")


@dataclass(frozen=True)
class Cause:
    """Why cells part.

    Args:
        text: The cause.
        cells: The scenarios of each framework.
        is_promised: Whether the framework's pages promise otherwise.
        reproducer: Its script in `reproducers/`.
    """

    text: str
    cells: dict[str, tuple[str, ...]]
    is_promised: bool
    reproducer: str = ""


CAUSES = (
    Cause(
        "The checkpoint at an epoch's end is written before `ReduceLROnPlateau` takes its step.",
        {"lightning": ("plateau",)},
        True,
        "lightning_plateau",
    ),
    Cause(
        "Resumed within an epoch, `ReduceLROnPlateau` takes no step at that epoch's end.",
        {"lightning_stateful": ("plateau",)},
        True,
        "lightning_plateau_within",
    ),
    Cause(
        "Random states are saved, but a batch is read ahead: its numbers were drawn before.",
        {"accelerate": ("numpy", "random"), "accelerate_stateful": ("numpy", "random")},
        True,
        "accelerate_look_ahead",
    ),
    Cause(
        "The same, in the Trainer.",
        {"transformers": ("numpy", "random")},
        True,
        "transformers_look_ahead",
    ),
    Cause(
        "The restored `ReduceLROnPlateauScheduler` changes a copy of the optimizer.",
        {"ignite": ("plateau",), "ignite_within": ("plateau",)},
        True,
        "ignite_plateau",
    ),
    Cause(
        "`EarlyStopper` saves nothing of what it has counted.",
        {"composer": ("early",)},
        True,
        "composer_early",
    ),
    Cause(
        "No random state in the checkpoint, nor the position in a stream.",
        {"lightning": (*_RANDOM, "stream")},
        False,
        "lightning_random_state",
    ),
    Cause(
        "No random state in the checkpoint; the loader's own is.",
        {"lightning_stateful": ("workers", "numpy", "random", "dropout")},
        False,
        "lightning_random_state",
    ),
    Cause(
        "No state of workers, nor of a stream, unless the loader is stateful.",
        {"accelerate": ("workers", "stream"), "transformers": ("workers",)},
        False,
        "accelerate_look_ahead",
    ),
    Cause(
        "Random states are set before the epoch's order is drawn; Ignite promises the same data "
        "from an epoch on.",
        {"ignite_within": ("shuffle", "workers")},
        False,
        "ignite_within_epoch",
    ),
    Cause(
        "Saved amid an accumulation: the gradients are in no checkpoint.",
        {"ignite": ("accumulate",), "fastai": ("accumulate",)},
        False,
        "ignite_accumulate",
    ),
    Cause(
        "No random state in the saved model, nor the position in a stream.",
        {"fastai": (*_RANDOM, "stream")},
        False,
        "fastai_random_state",
    ),
    Cause(
        "`start_epoch=` with a tracker ends with an IndexError in the epochs that are skipped.",
        {"fastai": ("plateau", "early")},
        True,
        "fastai_start_epoch",
    ),
    Cause(
        "No random state in the checkpoint.",
        {"skorch": _RANDOM},
        False,
        "skorch_random_state",
    ),
    Cause(
        "No state of callbacks in the checkpoint.",
        {"skorch": ("plateau", "early")},
        False,
        "skorch_callbacks",
    ),
    Cause(
        "Weights, optimizer and epoch alone are saved: no random state, no position in a stream.",
        {"keras": (*_RANDOM, "stream")},
        False,
        "keras_random_state",
    ),
    Cause(
        "Weights, optimizer and epoch alone are saved: no state of callbacks.",
        {"keras": ("plateau", "early")},
        False,
        "keras_callbacks",
    ),
)


def cause_of(framework, scenario):
    """Return the cause of a cell."""
    for cause in CAUSES:
        if scenario in cause.cells.get(framework, ()):
            return cause
    return None
