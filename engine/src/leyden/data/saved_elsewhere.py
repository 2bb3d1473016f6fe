"""Objects whose state is in parts of a checkpoint other than the run's `ObjectState`: weights, metrics, optimizers."""

from typing import Any

import lightning as L
from torchmetrics import Metric


def saved_elsewhere(trainer: L.Trainer, module: L.LightningModule) -> list[Any]:
    """Return the trainer, and the weights, buffers, metrics, optimizers and schedules of the module in training."""
    optimizers = [*trainer.optimizers, *(each.scheduler for each in trainer.lr_scheduler_configs)]
    return [trainer, *weights_and_metrics(module), *optimizers]


def weights_and_metrics(module: L.LightningModule) -> list[Any]:
    """Return the weights, buffers and metrics of a module."""
    metrics = [part for _, metric in metrics_of(module) for part in metric.modules()]
    return [*module.parameters(), *module.state_dict(keep_vars=True).values(), *metrics]


def metrics_of(module: L.LightningModule) -> list[tuple[str, Metric]]:
    """Return the torchmetrics metrics of a module, with their names."""
    return [(name, metric) for name, metric in module.named_modules() if isinstance(metric, Metric)]
