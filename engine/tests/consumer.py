"""A project's module that uses public names: `mypy --strict` passes it, with those of the library."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch

import leyden
from leyden import Exact, UserError, verdict
from leyden.callbacks import DisplayCallback
from leyden.data import Facts, Table
from leyden.run import Result, Run
from leyden.tasks import Outcome, Task
from leyden.verdict import Ranking, TableComparison, Verdict


class Diamonds(Table):
    pass


class Norms(DisplayCallback):
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        print(trainer.global_step)


class Mine(Task):
    def step(self, batch: Any) -> Outcome:
        loss = torch.zeros(())
        return Outcome(loss, loss, loss)


def best(rows: list[Mapping[str, Any]]) -> str:
    found = verdict.rank(rows, "acc", mode="max")
    if isinstance(found, Ranking):
        return found.settings[found.first].name
    return str(found)


def difference(found: TableComparison) -> Verdict:
    return found.found


def accuracy(directory: str) -> float:
    run = Run(directory)
    result: Result | None = run.result
    if result is None:
        raise UserError(f"{directory}: has not ended")
    return result.metrics["val/acc"]


def train(module: L.LightningModule, facts: Facts) -> None:
    exact = Exact("runs/a", seed=0)
    trainer = L.Trainer(callbacks=[exact])
    exact.fit(trainer, module)
    print(leyden.load("runs/a"), facts)
