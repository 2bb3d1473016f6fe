"""Callbacks that a run needs: its checkpoints, averages, fingerprints, and what the terminal shows.

A YAML in `conf/callbacks/` names them; a picture of one's own derives from `DisplayCallback`, whose
errors end no run:

    from leyden.callbacks import DisplayCallback

    class Norms(DisplayCallback):
        def on_validation_epoch_end(self, trainer, pl_module):
            ...
"""

from typing import TYPE_CHECKING

from leyden.base.doors import lazily

if TYPE_CHECKING:
    from leyden.callbacks.averaging import EMA
    from leyden.callbacks.checkpoint import RunCheckpoint
    from leyden.callbacks.display import DisplayCallback, Fingerprints, Progress, Summary

__all__ = ["EMA", "DisplayCallback", "Fingerprints", "Progress", "RunCheckpoint", "Summary"]

__getattr__ = lazily(
    __name__,
    {
        "DisplayCallback": "leyden.callbacks.display",
        "EMA": "leyden.callbacks.averaging",
        "Fingerprints": "leyden.callbacks.display",
        "Progress": "leyden.callbacks.display",
        "RunCheckpoint": "leyden.callbacks.checkpoint",
        "Summary": "leyden.callbacks.display",
    },
)
