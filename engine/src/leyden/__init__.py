"""Leyden: a research template for PyTorch Lightning, and its library.

In a notebook or a script, `leyden.load(DIR)` returns a trained run, and `leyden.load_runs(DIR)` all runs below a folder.
In a Trainer of your own, `leyden.Exact` resumes to the same bits:

    exact = leyden.Exact("runs/a", seed=0)
    trainer = L.Trainer(max_epochs=10, callbacks=[exact])
    exact.fit(trainer, module, data)
"""

from typing import TYPE_CHECKING

from leyden.config.doors import lazily

if TYPE_CHECKING:
    from leyden.config.errors import UserError
    from leyden.config.terminal import warn
    from leyden.exact import Exact, mark
    from leyden.training.trained import load, load_runs

__all__ = ["Exact", "UserError", "__version__", "load", "load_runs", "mark", "warn"]
__version__ = "0.3.0.dev0"

__getattr__ = lazily(
    __name__,
    {
        "Exact": "leyden.exact",
        "UserError": "leyden.config.errors",
        "load": "leyden.training.trained",
        "load_runs": "leyden.training.trained",
        "mark": "leyden.exact",
        "warn": "leyden.config.terminal",
    },
)
