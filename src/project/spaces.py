"""Spaces of searches in which a key depends on others; `sweep.space` names one."""

from typing import Any

from optuna import Trial


def optimizers(trial: Trial) -> dict[str, Any]:
    """SGD, with momentum, against AdamW; 256 samples for each update, in 1 to 4 batches."""
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adamw"])
    batch_size = trial.suggest_categorical("data.batch_size", [64, 128, 256])
    found = {
        "optimizer": optimizer,
        "optimizer.lr": trial.suggest_float("optimizer.lr", 0.0003, 0.1, log=True),
        "data.batch_size": batch_size,
        "trainer.accumulate_grad_batches": 256 // batch_size,
    }
    if optimizer == "sgd":
        found["optimizer.momentum"] = trial.suggest_float("optimizer.momentum", 0.0, 0.95)
    return found
