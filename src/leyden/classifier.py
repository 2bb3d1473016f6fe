"""How a network is trained to classify: loss, metrics, optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric


class LossAndAccuracy(Metric):
    """Mean cross-entropy and accuracy over samples (not over batches), as `{"loss": …, "acc": …}`.

    The sums stay tensors on the device, so that an update neither waits for it nor costs much.
    """

    full_state_update = False
    names = ("loss", "acc")
    loss_sum: Tensor
    num_correct: Tensor
    num_samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss_sum: Tensor, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Add a batch: the sum of its losses, its logits and its classes."""
        self.loss_sum += loss_sum
        self.num_correct += (logits_NK.argmax(dim=1) == labels_N).sum()
        self.num_samples += len(labels_N)

    def compute(self) -> dict[str, Tensor]:
        """Means over all processes since the last reset."""
        return {"loss": self.loss_sum / self.num_samples, "acc": self.num_correct / self.num_samples}

    def sums(self) -> dict[str, Tensor]:
        """This process's sums by name, as copies."""
        return {name: getattr(self, name).clone() for name in self._defaults}


class Classifier(L.LightningModule):
    """Trains a network by cross-entropy on logits and class indices.

    It logs `train/loss`, `train/acc` and the same for `val` and `test`: means over an epoch's samples. In
    between, each `log_every_n_steps`, it logs `train/loss_step` and `train/acc_step`: means over the batches
    since the last such step.

    Args:
        network: Takes images, shape (N, C, H, W), and gives logits, shape (N, K).
        optimizer: Makes the optimizer when called with the network's parameters; needed for training only.
        scheduler: Makes the schedule of the learning rate, a value a step, when called with the optimizer; None:
            the learning rate stays as it is.
        label_smoothing: Part of a label's weight that is spread over all classes, in training only, in [0, 1).

    Raises:
        FloatingPointError: In training, when the loss is no longer a finite number.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing = label_smoothing
        self.train_metric, self.val_metric, self.test_metric = (LossAndAccuracy() for _ in range(3))
        self._logged = self.train_metric.sums()  # as they were at the last logged step

    @property
    def metric_names(self) -> set[str]:
        """All that is logged an epoch."""
        return {f"{stage}/{name}" for stage in ("train", "val", "test") for name in LossAndAccuracy.names}

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, K), of normalised images, shape (N, C, H, W)."""
        logits_NK: Tensor = self.network(images_NCHW)
        return logits_NK

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean loss of a batch."""
        images_NCHW, labels_N = batch
        logits_NK = self(images_NCHW)
        loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=self.label_smoothing)
        self.train_metric.update(loss.detach() * len(labels_N), logits_NK.detach(), labels_N)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the means since the last logged step, if it is time."""
        # The time at which Lightning passes values on, once a step even where it takes several batches. It is
        # before a checkpoint of this step, so that a resumed run does not log it again.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log_steps()

    def on_train_epoch_start(self) -> None:
        """Start the sums anew."""
        self.train_metric.reset()
        self._logged = self.train_metric.sums()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss = self._log_means("train", self.train_metric)
        if not loss.isfinite():
            raise FloatingPointError(f"train/loss is {loss:.3g} in epoch {self.current_epoch}")

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Add a batch to the metrics of the validation split; returns the logits, shape (N, K)."""
        return self._evaluate(batch, self.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the split's means."""
        self._log_means("val", self.val_metric)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Add a batch to the metrics of the test set; returns the logits, shape (N, K)."""
        return self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log the test set's means."""
        self._log_means("test", self.test_metric)

    def configure_optimizers(self) -> Any:
        """The optimizer of all the parameters, and the schedule of its learning rate."""
        if self.optimizer is None:
            raise ValueError("this classifier has no optimizer: it can be evaluated, not trained")
        optimizer = self.optimizer(self.network.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }

    def running_sums(self) -> list[dict[str, Tensor]]:
        """What a run resumed within an epoch needs, to log the same: the epoch's sums, now and as last logged."""
        return [
            {name: value.cpu() for name, value in sums.items()} for sums in (self.train_metric.sums(), self._logged)
        ]

    def load_running_sums(self, state: list[dict[str, Tensor]]) -> None:
        """Take back what `running_sums` gave."""
        current, self._logged = ({name: value.to(self.device) for name, value in sums.items()} for sums in state)
        for name, value in current.items():
            setattr(self.train_metric, name, value)

    def _evaluate(self, batch: tuple[Tensor, Tensor], metric: LossAndAccuracy) -> Tensor:
        images_NCHW, labels_N = batch
        logits_NK: Tensor = self(images_NCHW)
        metric.update(F.cross_entropy(logits_NK, labels_N, reduction="sum"), logits_NK, labels_N)
        return logits_NK

    def _log_means(self, stage: str, metric: LossAndAccuracy) -> Tensor:
        means = metric.compute()
        # A validation after training, for pictures, is no point of a curve.
        logger = False if self.trainer.state.fn == "validate" else None
        self.log_dict({f"{stage}/{name}": mean for name, mean in means.items()}, sync_dist=True, logger=logger)
        metric.reset()
        return means["loss"]

    def _log_steps(self) -> None:
        sums = self.train_metric.sums()
        reduce = self.trainer.strategy.reduce  # over the processes; all of them must find the same
        since: Any = {name: reduce(sums[name] - self._logged[name], reduce_op="sum") for name in sums}
        self._logged = sums
        loss, acc = since["loss_sum"] / since["num_samples"], since["num_correct"] / since["num_samples"]
        if not loss.isfinite():
            raise FloatingPointError(
                f"train/loss is {loss:.3g} at step {self.global_step}; try a smaller optimizer.lr"
            )
        self.log_dict({"train/loss_step": loss, "train/acc_step": acc}, prog_bar=True)
