"""Leyden: a research template for PyTorch Lightning, and its library.

In a notebook or a script, `leyden.load(DIR)` returns a trained run, and `leyden.load_runs(DIR)` all
runs below a folder. In a Trainer of your own, `leyden.Exact` resumes to the same bits:

    exact = leyden.Exact("runs/a", seed=0)
    trainer = L.Trainer(max_epochs=10, callbacks=[exact])
    exact.fit(trainer, module, data)
"""

from typing import TYPE_CHECKING

from leyden.base.doors import lazily

if TYPE_CHECKING:
    from leyden.base.errors import UserError
    from leyden.base.terminal import warn
    from leyden.exact import Exact, mark
    from leyden.trained.loading import load, load_runs

__all__ = ["Exact", "UserError", "__version__", "load", "load_runs", "mark", "warn"]
__version__ = "0.3.0.dev0"

__getattr__ = lazily(
    __name__,
    {
        "Exact": "leyden.exact",
        "UserError": "leyden.base.errors",
        "load": "leyden.trained.loading",
        "load_runs": "leyden.trained.loading",
        "mark": "leyden.exact",
        "warn": "leyden.base.terminal",
    },
)
