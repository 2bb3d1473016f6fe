"""The base of all tasks: loss and metrics as means over samples, curves, optimizer and schedule.

Means are over samples, whatever the sizes of the batches.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection


class Means(Metric):
    """Means of several values over samples (not over batches), over all processes.

    The sums stay tensors on the device, so that an update neither waits for it nor costs much. They are states of a
    metric, which the checkpoint of a run holds.

    Args:
        zeros: The sum of no samples by name, 0.0 or, of what is counted, 0.

    Example:
        >>> means = Means({"loss": 0.0})
        >>> means.update({"loss": torch.tensor(3.0)}, num_samples=2)
        >>> means.compute()
        {'loss': tensor(1.5000)}
    """

    full_state_update = False
    num_samples: Tensor

    def __init__(self, zeros: Mapping[str, float]) -> None:
        super().__init__()
        self.names = tuple(zeros)
        for name, zero in zeros.items():
            self.add_state(f"{name}_sum", torch.tensor(zero), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, sums: Mapping[str, Tensor], num_samples: int) -> None:
        """Add a batch: the sum of each value over its samples, and their number."""
        for name in self.names:
            sum_ = getattr(self, f"{name}_sum")
            sum_ += sums[name]
        self.num_samples += num_samples

    def compute(self) -> dict[str, Tensor]:
        """Means over all processes since the last reset."""
        return {name: getattr(self, f"{name}_sum") / self.num_samples for name in self.names}

    def since(self, before: "Means", reduce: Any) -> dict[str, Tensor]:
        """Means over all processes of what was added since `before` had these sums, which it gets."""
        names = [*(f"{name}_sum" for name in self.names), "num_samples"]
        added = {name: reduce(getattr(self, name) - getattr(before, name), reduce_op="sum") for name in names}
        for name in names:
            setattr(before, name, getattr(self, name).clone())
        return {name: added[f"{name}_sum"] / added["num_samples"] for name in self.names}


class Outcome(NamedTuple):
    """What a task makes of a batch.

    Args:
        loss: Mean over the samples of the batch; training goes down on it.
        predictions: What metrics and pictures take, one per sample.
        targets: What they are compared with.
        sums: Further values, each summed over the samples: their means are logged beside the loss.
    """

    loss: Tensor
    predictions: Tensor
    targets: Tensor
    sums: Mapping[str, Tensor] = {}

    @property
    def shown(self) -> dict[str, Tensor]:
        """Predictions and targets, as validation and test steps give them."""
        return {"predictions": self.predictions, "targets": self.targets}


class Task(L.LightningModule):
    """Base of a LightningModule that needs one method only: `step`, from a batch to an `Outcome`.

    It logs `train/loss`, the same for `val` and `test`, and so each further value and metric: means over the samples of an
    epoch, also of one that was interrupted and gone on with. In between, each `log_every_n_steps`, it logs
    `train/loss_step` and the like: means since the last such step. Validation and test steps give predictions and targets.

    A LightningModule need not be one of these: any other one is trained, too.

    Args:
        network: What is trained.
        optimizer: Makes the optimizer when called with named parameters; needed for training only.
        scheduler: Makes the schedule of the learning rate, one value per step, when called with the optimizer; None:
            the learning rate stays as it is.
        metrics: Of torchmetrics, by the names under which they are logged; they take predictions and targets.

    Raises:
        FloatingPointError: In training, when the loss is no longer a finite number.

    Example:
        >>> class Regression(Task):
        ...     def step(self, batch):
        ...         inputs, targets = batch
        ...         predictions = self.network(inputs)
        ...         return Outcome(nn.functional.mse_loss(predictions, targets), predictions, targets)
        >>> sorted(Regression(network=nn.Linear(1, 1)).metric_names)
        ['test/loss', 'train/loss', 'val/loss']
    """

    kind = ""  # which pictures suit: `classes`, `values`, `reconstruction`, `text`; empty for none
    # The further values of an outcome, and what their sum starts with: 0.0, or 0 for counts.
    sums: Mapping[str, float] = {}

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(metrics or {}, Mapping):
            raise ValueError(f"metrics={metrics}: must be metrics by name")
        self.network = network
        self.optimizer, self.scheduler = optimizer, scheduler
        zeros = {"loss": 0.0, **self.sums}
        self.train_means, self.val_means, self.test_means = (Means(zeros) for _ in range(3))
        self.logged_means = Means(zeros)  # as those of training were at the last logged step
        if both := sorted({*zeros} & {*(metrics or {})}):
            raise ValueError(f"metrics.{both[0]}: the task logs a value of this name already; choose another one")
        collection = MetricCollection(dict(metrics or {})) if metrics else None
        self.train_metrics, self.val_metrics, self.test_metrics = (
            collection.clone(prefix=f"{stage}/") if collection else None for stage in ("train", "val", "test")
        )

    def step(self, batch: Any) -> Outcome:
        """What comes of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no step(batch), which gives an Outcome")

    @property
    def metric_names(self) -> set[str]:
        """All that is logged per epoch."""
        return self.logged_on(("train", "val", "test"))

    def names_in(self, stage: str) -> set[str]:
        """Return what is logged per epoch in a stage: `train`, `val` or `test`."""
        metrics = self.train_metrics.keys(keep_base=True) if self.train_metrics else ()
        return {f"{stage}/{name}" for name in (*self.train_means.names, *metrics)}

    def logged_on(self, splits: Iterable[str]) -> set[str]:
        """What of that is logged with data that have these splits."""
        return set().union(*map(self.names_in, splits))

    def forward(self, inputs: Tensor) -> Tensor:
        """What the network gives."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: Any) -> Tensor:
        """The mean loss of a batch."""
        return self._add("train", batch).loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the means since the last logged step, if it is time."""
        # The time at which Lightning passes values on, once per step even where it takes several batches. It is
        # before a checkpoint of this step, so that a resumed run does not log it again.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # Over the processes; all of them must find the same.
            means = self.train_means.since(self.logged_means, self.trainer.strategy.reduce)
            if not means["loss"].isfinite():
                raise FloatingPointError(
                    f"train/loss is {means['loss']:.3g} at step {self.global_step}; try a smaller optimizer.lr"
                )
            self.log_dict({f"train/{name}_step": mean for name, mean in means.items()}, prog_bar=True)

    def on_train_epoch_start(self) -> None:
        """Start the sums anew."""
        self.train_means.reset()
        self.logged_means.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss = self._log("train")
        if not loss.isfinite():
            raise FloatingPointError(f"train/loss is {loss:.3g} in epoch {self.current_epoch}")

    def validation_step(self, batch: Any) -> dict[str, Tensor]:
        """Add a batch to the metrics of the validation split; gives its predictions and targets."""
        return self._add("val", batch).shown

    def on_validation_epoch_end(self) -> None:
        """Log the split's means."""
        self._log("val")

    def test_step(self, batch: Any) -> dict[str, Tensor]:
        """Add a batch to the metrics of the test set; gives its predictions and targets."""
        return self._add("test", batch).shown

    def on_test_epoch_end(self) -> None:
        """Log the test set's means."""
        self._log("test")

    def configure_optimizers(self) -> Any:
        """The optimizer of all the parameters, and the schedule of its learning rate."""
        if self.optimizer is None:
            raise ValueError("this task has no optimizer: it can be evaluated, not trained")
        optimizer = self.optimizer(self.named_parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }

    def _add(self, stage: str, batch: Any) -> Outcome:
        outcome = self.step(batch)
        num = len(outcome.targets)
        if not num:  # one of several processes can have none of the last batch; the mean over none is no number
            return outcome
        means: Means = getattr(self, f"{stage}_means")
        means.update({"loss": outcome.loss.detach() * num, **outcome.sums}, num)
        if metrics := getattr(self, f"{stage}_metrics"):
            metrics.update(outcome.predictions.detach(), outcome.targets)
        return outcome

    def _log(self, stage: str) -> Tensor:
        means: Means = getattr(self, f"{stage}_means")
        metrics: MetricCollection | None = getattr(self, f"{stage}_metrics")
        values = means.compute()
        found = {f"{stage}/{name}": mean for name, mean in values.items()} | (metrics.compute() if metrics else {})
        # A validation after training, for pictures, is no point of a curve.
        logger = False if self.trainer.state.fn == "validate" else None
        self.log_dict(found, sync_dist=True, logger=logger)
        means.reset()
        if metrics:
            metrics.reset()
        return values["loss"]


def network_of(module: L.LightningModule) -> nn.Module:
    """The network that a module trains: its `network`, or all of it where it has none of this name."""
    network = getattr(module, "network", None)
    return network if isinstance(network, nn.Module) else module
