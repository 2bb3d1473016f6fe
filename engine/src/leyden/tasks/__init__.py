"""Tasks: their base, with loss, metrics, optimizer and schedule; and those for classes, numbers, images and text.

All means are over samples, whatever the batch sizes. Shapes: N samples of a batch, C channels, H rows and W columns of an
image, K classes or vocabulary entries, T targets or tokens per sample, Z code dimensions.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from leyden.run.result import STAGES

__all__ = ["Autoencoder", "Classification", "Language", "Means", "Outcome", "Regression", "Task"]


class Means(Metric):
    """Means of several values over samples (not over batches), over all processes.

    The sums remain tensors on the device, so an update is cheap and does not synchronize. They are metric states,
    which a checkpoint contains.

    Args:
        zeros: Initial sum by name: 0.0, or 0 for counts.

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
        """Add a batch: each value summed over the batch's samples, and the number of samples."""
        for name in self.names:
            sum_ = getattr(self, f"{name}_sum")
            sum_ += sums[name]
        self.num_samples += num_samples

    def compute(self) -> dict[str, Tensor]:
        """Return the means since the last reset, over all processes."""
        return {name: getattr(self, f"{name}_sum") / self.num_samples for name in self.names}

    def means_since(self, before: "Means", reduce: Any) -> dict[str, Tensor]:
        """Return the means of what was added since `before`, over all processes, and update `before`.

        Args:
            before: An earlier copy of this object.
            reduce: Lightning's reduction over processes.
        """
        names = [*(f"{name}_sum" for name in self.names), "num_samples"]
        added = {
            name: reduce(getattr(self, name) - getattr(before, name), reduce_op="sum")
            for name in names
        }
        for name in names:
            setattr(before, name, getattr(self, name).clone())
        return {name: added[f"{name}_sum"] / added["num_samples"] for name in self.names}


class Outcome(NamedTuple):
    """Result of a task for one batch.

    Args:
        loss: Mean over the samples of the batch; the value that training minimizes.
        predictions: One per sample, for metrics and pictures: a tensor, or a list, such as a dictionary of boxes for each
            image. None if this batch has none: it then adds nothing to the metrics.
        targets: One per sample, to compare the predictions with: a tensor or a list.
        sums: Additional values, each summed over the samples; their means are logged beside the loss.
    """

    loss: Tensor
    predictions: Any
    targets: Any
    sums: Mapping[str, Tensor] = {}

    @property
    def step_output(self) -> dict[str, Any]:
        """Predictions and targets, the return value of validation and test steps."""
        return {"predictions": self.predictions, "targets": self.targets}


class Task(L.LightningModule):
    """Base of a LightningModule that defines only `step`, from a batch to an `Outcome`.

    Logs `train/loss`, `val/loss` and `test/loss`, and the additional values and metrics likewise: means over the
    samples of an epoch, also of an epoch that was interrupted and resumed. Every `log_every_n_steps` it logs
    `train/loss_step` etc., the means since the previous such step. Validation and test steps return predictions and
    targets.

    Any other LightningModule can be trained, too.

    Args:
        network: The network to train.
        optimizer: Creates the optimizer when called with named parameters; needed only for training.
        scheduler: Creates the learning-rate schedule when called with the optimizer, one value per step unless its attribute
            `options`, a dictionary for Lightning, says otherwise; None: the learning rate is constant.
        metrics: Metrics of torchmetrics, by the names under which they are logged; they receive predictions and
            targets.

    Raises:
        FloatingPointError: The loss is not finite during training.

    Example:
        >>> class Regression(Task):
        ...     def step(self, batch):
        ...         inputs, targets = batch
        ...         predictions = self.network(inputs)
        ...         return Outcome(nn.functional.mse_loss(predictions, targets), predictions, targets)
        >>> Regression(network=nn.Linear(1, 1)).names_in("val")
        {'val/loss'}
    """

    kind = (
        ""  # selects the pictures: `classes`, `values`, `reconstruction` or `text`; empty for none
    )
    # Initial sums of the outcome's additional values: 0.0, or 0 for counts.
    sums: Mapping[str, float] = {}
    # True for a loss over the pairs of a batch, as InfoNCE, whose value depends on how many there are.
    same_batch_size = False
    # Stages in which no metrics are computed; the loss and the additional values are logged in all.
    without_metrics: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        network: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.scheduler = optimizer, scheduler
        zeros = {"loss": 0.0, **self.sums}
        self.logged_means = Means(zeros)  # copy of the training means at the last logged step
        if both := sorted({*zeros} & {*(metrics or {})}):
            raise ValueError(
                f"metrics.{both[0]}: the task logs a value of this name already; choose another one"
            )
        collection = MetricCollection(dict(metrics or {})) if metrics else None
        for stage in (
            STAGES
        ):  # `train_means`, `train_metrics` and so on, which checkpoints contain by these names
            setattr(self, f"{stage}_means", Means(zeros))
            has_metrics = collection and stage not in self.without_metrics
            setattr(
                self,
                f"{stage}_metrics",
                collection.clone(prefix=f"{stage}/") if collection and has_metrics else None,
            )

    def step(self, batch: Any) -> Outcome:
        """Return the outcome of a batch; defined by subclasses."""
        raise NotImplementedError(
            f"{type(self).__name__} has no step(batch), which returns an Outcome"
        )

    def names_in(self, stage: str) -> set[str]:
        """Return the names logged per epoch in a stage: `train`, `val` or `test`."""
        means, metrics = self._means(stage), self._metrics(stage)
        return {
            f"{stage}/{name}"
            for name in (*means.names, *(metrics.keys(keep_base=True) if metrics else ()))
        }

    def logged_on(self, splits: Iterable[str]) -> set[str]:
        """Return the names logged per epoch of training with data that have these splits; only `train` and `val` log."""
        return set().union(*map(self.names_in, {"train", "val"} & {*splits}))

    def configure_model(self) -> None:
        """Shard the network over the processes of `trainer.strategy=fsdp2`."""
        if self.device_mesh is not None:
            from leyden.exact.sharding import shard  # late, as few runs need it

            shard(self.network, self.device_mesh["data_parallel"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's output."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""
        return self._update_means("train", batch).loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the means since the last logged step, every `log_every_n_steps`."""
        # Lightning passes values logged here to the loggers in the same step. This hook runs once per step, also
        # with gradient accumulation, and before the step's checkpoint, so that a resumed run does not log it again.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # A collective call: all processes must take this branch.
            means = self._means("train").means_since(
                self.logged_means, self.trainer.strategy.reduce
            )
            if not means["loss"].isfinite():
                raise FloatingPointError(
                    f"train/loss is {means['loss']:.3g} at step {self.global_step}; try a smaller optimizer.lr"
                )
            self.log_dict(
                {f"train/{name}_step": mean for name, mean in means.items()}, prog_bar=True
            )

    def on_train_epoch_start(self) -> None:
        """Reset the sums."""
        self._means("train").reset()
        self.logged_means.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        loss = self._log_means("train")
        if not loss.isfinite():
            raise FloatingPointError(f"train/loss is {loss:.3g} in epoch {self.current_epoch + 1}")

    def validation_step(self, batch: Any) -> dict[str, Any] | None:
        """Add a batch to the validation metrics; return its predictions and targets, None for a batch that is None."""
        return None if batch is None else self._update_means("val", batch).step_output

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation split."""
        self._log_means("val")

    def test_step(self, batch: Any) -> dict[str, Any] | None:
        """Add a batch to the test metrics; return its predictions and targets, None for a batch that is None."""
        return (
            None
            if batch is None
            else self._update_means(evaluated_stage(self.trainer), batch).step_output
        )

    def on_test_epoch_end(self) -> None:
        """Log the means of the test set."""
        self._log_means(evaluated_stage(self.trainer))

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all parameters, with its learning-rate schedule."""
        if self.optimizer is None:
            raise ValueError("this task has no optimizer: it can be evaluated, not trained")
        optimizer = self.optimizer(self.named_parameters())
        if self.scheduler is None:
            return optimizer
        options = getattr(self.scheduler, "options", {"interval": "step"})
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), **options},
        }

    def _means(self, stage: str) -> Means:
        means: Means = getattr(self, f"{stage}_means")
        return means

    def _metrics(self, stage: str) -> MetricCollection | None:
        metrics: MetricCollection | None = getattr(self, f"{stage}_metrics")
        return metrics

    def _update_means(self, stage: str, batch: Any) -> Outcome:
        outcome = self.step(batch)
        num = len(outcome.targets)
        if not num:  # a process can get an empty part of the last batch, whose mean is NaN
            return outcome
        self._means(stage).update({"loss": outcome.loss.detach() * num, **outcome.sums}, num)
        if (metrics := self._metrics(stage)) and outcome.predictions is not None:
            metrics.update(_detached(outcome.predictions), outcome.targets)
        return outcome

    def _log_means(self, stage: str) -> Tensor:
        means, metrics = self._means(stage), self._metrics(stage)
        values = means.compute()
        found = {f"{stage}/{name}": mean for name, mean in values.items()} | (
            metrics.compute() if metrics else {}
        )
        # The validation after training, from which pictures are drawn, adds no point to the curves.
        logger = False if self.trainer.state.fn == "validate" else None
        self.log_dict(found, sync_dist=True, logger=logger)
        means.reset()
        if metrics:
            metrics.reset()
        return values["loss"]


def _detached(predictions: Any) -> Any:
    """Return predictions without their graph, since a metric may keep them for an epoch."""
    if isinstance(predictions, Tensor):
        return predictions.detach()
    if isinstance(predictions, Mapping):
        return {name: _detached(part) for name, part in predictions.items()}
    return (
        [_detached(part) for part in predictions]
        if isinstance(predictions, list | tuple)
        else predictions
    )


def evaluated_stage(trainer: L.Trainer) -> str:
    """Return the stage that a `test_step` measures: `test`, or the one whose split is evaluated at the end of a run."""
    stage: str = getattr(trainer, "evaluated_stage", "test")
    return stage


def network_of(module: L.LightningModule) -> nn.Module:
    """Return the network that a module trains: its `network`, or the module itself if it has no such attribute."""
    network = getattr(module, "network", None)
    return network if isinstance(network, nn.Module) else module


class Classification(Task):
    """Trains a network to predict classes: logits, shape (N, K), for class indices, shape (N,).

    Logs the accuracy as `train/acc`, beside the loss.

    Args:
        label_smoothing: Part of a label's weight that is spread over all classes, in training only, in [0, 1).
        class_weights: Factor of a sample's cross-entropy by its class, in training only: a number per class, 0 or
            larger; `balanced`: inversely proportional to the number of its samples, 1 on average over the training split;
            None: 1 each.
        loss: Function of logits and class indices that returns the mean loss; None: cross-entropy.
        class_counts: Samples of each class in the training split, if the data report them; for `balanced`.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `label_smoothing` or `class_weights` is out of its range, or combined with a custom loss.
    """

    class_weights_K: Tensor | None

    kind = "classes"
    sums = {"acc": 0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be a number in [0, 1)")
        if loss is not None and (label_smoothing or class_weights is not None):
            raise ValueError(
                "label_smoothing and class_weights apply to cross-entropy only, not to a custom loss"
            )
        # Not in checkpoints: the configuration and the facts determine them.
        self.register_buffer(
            "class_weights_K", _class_weights(class_weights, class_counts), persistent=False
        )
        self.label_smoothing, self.loss = label_smoothing, loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for normalised images, shape (N, C, H, W), and their classes, shape (N,)."""
        inputs, labels_N = batch
        logits_NK = self(inputs)
        weights_K, smoothing = self.class_weights_K, self.label_smoothing if self.training else 0.0
        if weights_K is not None and weights_K.shape != logits_NK.shape[1:]:
            raise ValueError(
                f"class_weights: must be {logits_NK.shape[1]} numbers, one per class; found {len(weights_K)}"
            )
        if self.loss is not None:
            loss = self.loss(logits_NK, labels_N)
        elif self.training and weights_K is not None:
            losses_N = F.cross_entropy(
                logits_NK, labels_N, label_smoothing=smoothing, reduction="none"
            )
            # A mean over samples, unlike PyTorch's, which divides by the weights of a batch (or of a process's part of it).
            loss = (weights_K[labels_N] * losses_N).mean()
        else:
            loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing)
        num_correct = (logits_NK.argmax(dim=1) == labels_N).sum()
        return Outcome(loss, logits_NK, labels_N, {"acc": num_correct})


def _class_weights(
    given: Sequence[float] | str | None, counts: Sequence[int] | None
) -> Tensor | None:
    """Return the factor of each class, shape (K,); None for 1 each."""
    if given is None:
        return None
    if given == "balanced":
        if counts is None:
            raise ValueError(
                "class_weights=balanced: these data do not report the class of each sample; give a number per class"
            )
        counts_K = torch.tensor(counts, dtype=torch.float32)
        return counts_K.sum() / counts_K.count_nonzero() / counts_K.clamp(min=1)
    weights: list[Any] = (
        [] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    )
    if not any(weights) or not all(
        type(each) in (int, float) and 0 <= each < math.inf for each in weights
    ):
        raise ValueError(
            f"class_weights={given}: must be balanced, or a number per class, 0 or larger and not all 0"
        )
    return torch.tensor(weights, dtype=torch.float32)


class Regression(Task):
    """Trains a network to predict numbers, shape (N,) or (N, T), like the targets.

    Logs the mean absolute error as `train/mae`, beside the loss.

    Args:
        loss: Function of predictions and targets that returns the mean loss; None: the mean squared error.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.
    """

    kind = "values"
    sums = {"mae": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.loss = F.mse_loss if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return predictions and loss for inputs and targets."""
        inputs, targets = batch
        predictions = self(inputs)
        if targets.ndim == 1 and predictions.shape[1:] == (1,):
            predictions = predictions[:, 0]
        if predictions.shape != targets.shape:
            raise ValueError(
                f"predictions of shape {tuple(predictions.shape)} for targets of {tuple(targets.shape)}"
            )
        errors = (predictions.detach() - targets).abs()
        loss = self.loss(predictions, targets)
        return Outcome(loss, predictions, targets, {"mae": errors.mean() * len(targets)})


class Autoencoder(Task):
    """Trains a network to reconstruct its input.

    A network that returns only the reconstruction is a plain autoencoder. A variational one (Kingma and Welling
    2014, Auto-encoding variational Bayes) returns a tuple: the reconstruction, and mean and log-variance of the
    code, both of shape (N, Z). Its loss is the negative evidence lower bound, up to a constant. Both terms of the
    loss are logged, as `train/reconstruction` and `train/kl`, summed over the values of a sample, in nats.

    Args:
        beta: Weight of the Kullback-Leibler term (Higgins et al. 2017).
        loss: Function of outputs and inputs that returns the mean over all values; None: half of the mean squared
            error, the negative log-likelihood of a normal distribution with standard deviation 1.
            `torch.nn.BCELoss` is for pixels in [0, 1].
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `beta` is out of its range.
    """

    kind = "reconstruction"
    sums = {"reconstruction": 0.0, "kl": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        beta: float = 1.0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(beta, int | float) or not beta >= 0:
            raise ValueError(f"beta={beta}: must be a number, 0 or larger")
        self.beta = beta
        self.loss = _half_squared_error if loss is None else loss
        self._checked = not isinstance(loss, nn.BCELoss)  # which checks only outputs

    def step(self, batch: Any) -> Outcome:
        """Return reconstruction and loss for inputs, shape (N, ...); targets, if the data have any, are ignored."""
        inputs: Tensor = batch[0] if isinstance(batch, list | tuple) else batch
        if not self._checked and len(inputs) and inputs.device.type != "meta":
            self._checked = True
            if not 0 <= inputs.min() <= inputs.max() <= 1:
                raise ValueError(
                    "BCELoss needs inputs in [0, 1], such as pixels with data.normalize=unit"
                )
        made = self.network(inputs)
        outputs, *code = made if isinstance(made, tuple) else (made,)
        if outputs.shape != inputs.shape:
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} for inputs of {tuple(inputs.shape)}"
            )
        reconstruction = self.loss(outputs, inputs) * inputs.shape[1:].numel()
        kl = reconstruction.new_zeros(())
        if code:
            mean_NZ, log_variance_NZ = code
            kl = (
                0.5
                * (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ).sum(dim=1).mean()
            )
        num = len(inputs)
        sums = {"reconstruction": reconstruction.detach() * num, "kl": kl.detach() * num}
        return Outcome(reconstruction + self.beta * kl, outputs, inputs, sums)


def _half_squared_error(outputs: Tensor, inputs: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(outputs, inputs)


class Language(Task):
    """Trains a network to predict the next token at each position of a text, by logits, shape (N, T, K).

    Logs the loss, in nats per token, and the accuracy of the most likely token, as `train/acc`.

    Args:
        loss: Function of logits, shape (N, K, T), and tokens, shape (N, T), that returns the mean loss; None:
            cross-entropy.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`; metrics receive (N, T, K) and
            (N, T).
    """

    kind = "text"
    sums = {"acc": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.loss = _cross_entropy if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for tokens and their next tokens, both of shape (N, T)."""
        tokens_NT, next_NT = batch
        logits_NTK = self(tokens_NT)
        num_correct_N = (logits_NTK.argmax(dim=2) == next_NT).float().mean(dim=1)
        loss = self.loss(logits_NTK.transpose(1, 2), next_NT)
        return Outcome(loss, logits_NTK, next_NT, {"acc": num_correct_N.sum()})


def _cross_entropy(logits_NKT: Tensor, tokens_NT: Tensor) -> Tensor:
    # PyTorch's own mean over several axes is nondeterministic on CUDA, and raises with trainer.deterministic.
    return F.cross_entropy(logits_NKT, tokens_NT, reduction="none").mean()


@torch.no_grad()
def generate(
    network: nn.Module,
    prompt_T: Tensor,
    *,
    num_tokens: int,
    max_context: int,
    temperature: float,
    seed: int,
) -> Tensor:
    """Sample a continuation of a prompt, token by token, from the network's probabilities.

    Args:
        network: Returns logits, shape (1, T, K), for tokens, shape (1, T); in evaluation mode.
        prompt_T: Tokens, shape (T,), at least one.
        num_tokens: Number of tokens to generate.
        max_context: Maximum number of tokens that the network accepts; it gets the last ones.
        temperature: Sampling temperature; near 0, the most likely token is chosen.
        seed: Seed of the sampling, which uses a generator of its own.

    Returns:
        Prompt and continuation, shape (T + num_tokens,).
    """
    generator = torch.Generator().manual_seed(seed)
    tokens_T = prompt_T
    for _ in range(num_tokens):
        logits_K = network(tokens_T[None, -max_context:])[0, -1].float().cpu()
        chosen = torch.multinomial((logits_K / temperature).softmax(dim=0), 1, generator=generator)
        tokens_T = torch.cat([tokens_T, chosen.to(tokens_T.device)])
    return tokens_T
