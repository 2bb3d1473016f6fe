"""Sweeps: grids and searches, whose jobs run here or on a cluster.

`Pruning` stops bad trials of a search early.

A YAML in `conf/callbacks/pruning/` names it:

    _target_: leyden.sweep.Pruning
    metric: val/acc
    pruner: {_target_: optuna.pruners.MedianPruner}
"""

from typing import TYPE_CHECKING

from leyden.base.doors import lazily

if TYPE_CHECKING:
    from leyden.sweep.pruning import Pruning

__all__ = ["Pruning"]

__getattr__ = lazily(__name__, {"Pruning": "leyden.sweep.pruning"})
