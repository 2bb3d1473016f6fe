"""Callbacks that cost nothing at a step."""

from typing import Any

import lightning as L


class Sparse(L.Callback):
    """Base of callbacks that leave out most hooks of a step.

    Lightning calls each hook of each callback, empty ones too, but for those that can't be called. With ten
    callbacks that is 2 % of a small network's step. A subclass defines those that it needs.
    """

    on_train_batch_start: Any = None
    on_train_batch_end: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
