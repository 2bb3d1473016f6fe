"""Tasks: their base, and those for classes, numbers, images and text.

All means are over samples, whatever the batch sizes. Shapes: N samples of a batch, C channels, H
rows and W columns of an image, K classes or vocabulary entries, T targets or tokens per sample, Z
code dimensions.
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

from leyden.base.metric_names import STAGES
from leyden.data.contract import TARGET_KINDS, Facts

__all__ = [
    "Autoencoder",
    "Classification",
    "Language",
    "Means",
    "Outcome",
    "Regression",
    "Task",
]


class Means(Metric):
    """Means of several values over samples (not over batches), over all processes.

    The sums remain tensors on the device, so an update is cheap and does not synchronize. They are
    metric states, which a checkpoint contains.

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
        states = {f"{name}_sum": zero for name, zero in zeros.items()}
        states["num_samples"] = 0
        for name, zero in states.items():
            self.add_state(name, torch.tensor(zero), dist_reduce_fx="sum")

    def update(self, sums: Mapping[str, Tensor], num_samples: int) -> None:
        """Add a batch: each value summed over the batch's samples, and the number of samples."""
        for name in self.names:
            sum_ = getattr(self, f"{name}_sum")
            sum_ += sums[name]
        self.num_samples += num_samples

    def compute(self) -> dict[str, Tensor]:
        """Return the means since the last reset, over all processes."""
        means = {}
        for name in self.names:
            sum_ = getattr(self, f"{name}_sum")
            means[name] = sum_ / self.num_samples
        return means

    def means_since(self, before: "Means", reduce: Any) -> dict[str, Tensor]:
        """Return the means over all processes of what was added since `before`, and update it.

        Args:
            before: An earlier copy of this object.
            reduce: Lightning's reduction over processes.
        """
        num_samples = reduce(self.num_samples - before.num_samples, reduce_op="sum")
        before.num_samples = self.num_samples.clone()
        means = {}
        for name in self.names:
            key = f"{name}_sum"
            sum_ = getattr(self, key)
            added = reduce(sum_ - getattr(before, key), reduce_op="sum")
            setattr(before, key, sum_.clone())
            means[name] = added / num_samples
        return means


class Outcome(NamedTuple):
    """Result of a task for one batch; `log` adds what is logged beside the loss.

    Args:
        loss: Mean over the samples of the batch; the value that training minimizes.
        predictions: One per sample, for metrics and pictures: a tensor, or a list, such as a
            dictionary of boxes for each image. None if this batch has none: it then adds nothing to
            the metrics.
        targets: One per sample, to compare the predictions with: a tensor or a list.
        sums: Additional values, each summed over the samples, as `log` makes them.
    """

    loss: Tensor
    predictions: Any
    targets: Any
    sums: Mapping[str, Tensor] = {}

    @property
    def num_samples(self) -> int:
        """Number of samples of the batch, by its targets.

        Raises:
            TypeError: There are no targets.
        """
        if self.targets is None:
            raise TypeError(
                "the outcome's targets are None; must be one per sample, as their number is that "
                "of the means: the labels, or the inputs"
            )
        return len(self.targets)

    def log(self, **means: Tensor | float) -> "Outcome":
        """Return the outcome with values to log beside the loss, as means over samples.

        Their names stand in the task's `logs`.

        Args:
            means: The batch's mean of each value, or one value per sample.

        Raises:
            ValueError: A value is called `loss`, as the outcome's own.

        Example:
            >>> labels = torch.tensor([0, 2])
            >>> outcome = Outcome(torch.tensor(0.3), None, labels).log(acc=labels == 0, size=2.0)
            >>> outcome.sums
            {'acc': tensor(1.), 'size': tensor(4.)}
        """
        _refuse_loss(means)
        sums = {**self.sums}
        for name, value in means.items():
            mean = torch.as_tensor(value).detach().float().mean()
            sums[name] = mean * self.num_samples
        return Outcome(self.loss, self.predictions, self.targets, sums)

    @property
    def step_output(self) -> dict[str, Any]:
        """Predictions and targets, the return value of validation and test steps."""
        return {"predictions": self.predictions, "targets": self.targets}


Prediction = dict[str, Any]
Loss = Callable[[Tensor, Tensor], Tensor]


class Task(L.LightningModule):
    """Base of a LightningModule that defines only `step`, from a batch to an `Outcome`.

    Logs `train/loss`, `val/loss` and `test/loss`, and the additional values and metrics likewise:
    means over the samples of an epoch, also of an epoch that was interrupted and resumed. Every
    `log_every_n_steps` it logs `train/loss_step` etc., the means since the previous such step.
    Validation and test steps return predictions and targets.

    Its `kind` names the pictures of its predictions (`OnEvaluation.kind`). `classes`, `values`,
    `reconstruction` and `text` also decide what `predict_rows`, `output_name` and the checks do; a
    task of another kind defines them.

    Any other LightningModule can be trained, too.

    Args:
        network: The network to train.
        optimizer: Creates the optimizer when called with named parameters; needed only for
            training.
        scheduler: Creates the learning-rate schedule when called with the optimizer, one value per
            step unless its attribute `options`, a dictionary for Lightning, says otherwise; None:
            the learning rate is constant.
        metrics: Metrics of torchmetrics, by the names under which they are logged; they receive
            predictions and targets.

    Raises:
        FloatingPointError: The loss is not finite during training.

    Example:
        >>> class Regression(Task):
        ...     logs = ("mae",)
        ...
        ...     def step(self, batch):
        ...         inputs, targets = batch
        ...         predictions = self.network(inputs)
        ...         loss = nn.functional.mse_loss(predictions, targets)
        ...         mae = (predictions - targets).abs().mean()
        ...         return Outcome(loss, predictions, targets).log(mae=mae)
        >>> sorted(Regression(network=nn.Linear(1, 1)).names_in("val"))
        ['val/loss', 'val/mae']
    """

    kind = ""
    # Names that `Outcome.log` is given, beside those of the base classes.
    logs: Sequence[str] = ()
    # Initial sums of additional values that the outcome sums itself: 0.0, or 0 for counts.
    sums: Mapping[str, float] = {}
    # True for a loss over the pairs of a batch, as InfoNCE, whose value depends on how many there
    # are.
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
        self.optimizer = optimizer
        self.scheduler = scheduler
        logged = dict.fromkeys(_declared(self, "logs"), 0.0)
        own_zeros = {**logged, **self.sums}
        _refuse_loss(own_zeros)
        zeros = {"loss": 0.0, **own_zeros}
        for name in metrics or ():
            if name in zeros:
                raise ValueError(
                    f"metrics.{name}: the task logs a value of this name already; choose another "
                    "one"
                )
        collection = None
        if metrics:
            collection = MetricCollection(dict(metrics))
        self.logged_means = Means(zeros)  # copy of the training means at the last logged step
        # `train_means`, `train_metrics` and so on, which checkpoints contain by these names.
        for stage in STAGES:
            setattr(self, f"{stage}_means", Means(zeros))
            own = None
            if collection is not None and stage not in self.without_metrics:
                own = collection.clone(prefix=f"{stage}/")
            setattr(self, f"{stage}_metrics", own)

    def step(self, batch: Any) -> Outcome:
        """Return the outcome of a batch; defined by subclasses."""
        raise NotImplementedError(
            f"{type(self).__name__} has no step(batch), which returns an Outcome"
        )

    def predict_rows(self, inputs: Tensor, facts: Facts) -> list[Prediction]:
        """Return a row of values by name for each normalised sample, which `leyden predict` shows.

        Args:
            inputs: Samples, shape (N, ...), on the task's device.
            facts: Facts of the data that it was trained on.
        """
        if self.kind not in ("classes", "values", "reconstruction"):
            raise NotImplementedError(
                f"{type(self).__name__} has no predict_rows(inputs, facts), which returns rows"
            )
        outputs = self.network(inputs)
        if isinstance(outputs, tuple):  # a reconstruction and its code
            outputs = outputs[0]
        outputs = outputs.cpu()
        if self.kind == "classes":
            return _class_rows(outputs, facts.class_names or range(outputs.shape[1]))
        if self.kind == "values":
            return _value_rows(outputs, facts.target_names or ())
        return _error_rows(outputs, inputs.cpu())

    @property
    def output_name(self) -> str:
        """Name of the network's output in an exported file."""
        if self.kind == "classes":
            return "logits"
        return "outputs"

    def check_facts(self, facts: Facts) -> None:
        """Check that the task can learn from data with these facts.

        Raises:
            ValueError: It can't.
        """
        if self.kind not in TARGET_KINDS:
            return
        if facts.kind not in ("", self.kind):
            raise ValueError(
                f"{type(self).__name__} trains on {self.kind}; the targets of these data are "
                f"{facts.kind}"
            )

    def check_network(self, inputs: Tensor, facts: Facts) -> None:
        """Check the shape of the network's outputs, by samples of zeros, before the first step.

        Raises:
            ValueError: The shape is not the one that the task needs.
        """
        if self.kind != "classes" or facts.num_classes is None:
            return
        if facts.vocabulary is not None:
            return
        outputs = self.network(inputs)
        shape = tuple(getattr(outputs, "shape", ()))
        expected = (len(inputs), facts.num_classes)
        if shape != expected:
            raise ValueError(
                f"returns a {type(outputs).__name__} of shape {shape}; must be logits of shape "
                f"{expected}, one per class"
            )

    def check_outcome(self, outcome: Outcome) -> None:
        """Check that `step` returns an outcome, which logs what the class names.

        Raises:
            TypeError: It is something else.
            ValueError: A value is named nowhere, and would not be logged; or a name has no value.
        """
        kind = type(self).__name__
        if not isinstance(outcome, Outcome):
            found = type(outcome).__name__
            raise TypeError(
                f"{kind}.step returns a {found}; must be an Outcome(loss, predictions, targets)"
            )
        named = {*self._means("train").names} - {"loss"}
        unknown = outcome.sums.keys() - named
        unknown.difference_update(_declared(self, "sums"))  # those that a derived class leaves out
        if unknown:
            name = min(unknown)
            raise ValueError(
                f'{kind}.step logs {name}: name it in the class, as logs = ("{name}",)'
            )
        missing = named - outcome.sums.keys()
        if missing:
            name = min(missing)
            raise ValueError(
                f"{kind} names {name} in logs or sums, and its step gives no value of it: add "
                f".log({name}=...) to the outcome"
            )

    def names_in(self, stage: str) -> set[str]:
        """Return the names logged per epoch in a stage: `train`, `val` or `test`."""
        names = [*self._means(stage).names]
        metrics = self._metrics(stage)
        if metrics:
            names += map(str, metrics.keys(keep_base=True))
        return {f"{stage}/{name}" for name in names}

    def logged_on(self, splits: Iterable[str]) -> set[str]:
        """Return the names logged per epoch of training, if the data have these splits."""
        names: set[str] = set()
        for split in splits:
            if split in ("train", "val"):
                names |= self.names_in(split)
        return names

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
        # Lightning passes values logged here to the loggers in the same step. This hook runs once
        # per step, also with gradient accumulation, and before the step's checkpoint, so that a
        # resumed run does not log it again.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % every != 0:
            return
        # A collective call: all processes must take this branch.
        reduce = self.trainer.strategy.reduce
        means = self._means("train").means_since(self.logged_means, reduce)
        loss = means["loss"]
        if not loss.isfinite():
            raise FloatingPointError(
                f"train/loss is {loss:.3g} at step {self.global_step}; try a smaller optimizer.lr"
            )
        for name, mean in means.items():
            self.log(f"train/{name}_step", mean, prog_bar=True)

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
        """Add a batch to the validation metrics.

        Return its predictions and targets, None for a batch of None.
        """
        if batch is None:
            return None
        return self._update_means("val", batch).step_output

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation split."""
        self._log_means("val")

    def test_step(self, batch: Any) -> dict[str, Any] | None:
        """Add a batch to the test metrics.

        Return its predictions and targets, None for a batch of None.
        """
        if batch is None:
            return None
        stage = evaluated_stage(self.trainer)
        return self._update_means(stage, batch).step_output

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
        schedule = {"scheduler": self.scheduler(optimizer), **options}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _means(self, stage: str) -> Means:
        means: Means = getattr(self, f"{stage}_means")
        return means

    def _metrics(self, stage: str) -> MetricCollection | None:
        metrics: MetricCollection | None = getattr(self, f"{stage}_metrics")
        return metrics

    def _update_means(self, stage: str, batch: Any) -> Outcome:
        outcome = self.step(batch)
        self.check_outcome(outcome)
        num = outcome.num_samples
        if not num:  # a process can get an empty part of the last batch, whose mean is NaN
            return outcome
        loss_sum = outcome.loss.detach() * num
        self._means(stage).update({"loss": loss_sum, **outcome.sums}, num)
        metrics = self._metrics(stage)
        if metrics and outcome.predictions is not None:
            metrics.update(_detached(outcome.predictions), outcome.targets)
        return outcome

    def _log_means(self, stage: str) -> Tensor:
        means = self._means(stage)
        metrics = self._metrics(stage)
        values = means.compute()
        found: dict[str, Any] = {}
        for name, mean in values.items():
            found[f"{stage}/{name}"] = mean
        if metrics:
            found |= metrics.compute()
        # The validation after training, from which pictures are drawn, adds no point to the curves.
        logger = None
        if self.trainer.state.fn == "validate":
            logger = False
        self.log_dict(found, sync_dist=True, logger=logger)
        means.reset()
        if metrics:
            metrics.reset()
        return values["loss"]


def _refuse_loss(names: Iterable[str]) -> None:
    """Raise a `ValueError` if a value to log has the name of the loss, which it would replace."""
    if "loss" in names:
        raise ValueError("loss is the outcome's own, which is logged anyway; choose another name")


def _declared(task: Task, attribute: str) -> dict[str, None]:
    """Return the names in an attribute of a task's class and of its bases, the bases' first."""
    names: dict[str, None] = {}
    of_bases = [vars(base).get(attribute) for base in reversed(type(task).__mro__)]
    for given in (*of_bases, getattr(task, attribute)):
        if isinstance(given, str):
            names[given] = None
        elif isinstance(given, Iterable):  # no property
            names |= dict.fromkeys(given)
    return names


def _detached(predictions: Any) -> Any:
    """Return predictions without their graph, since a metric may keep them for an epoch."""
    if isinstance(predictions, Tensor):
        return predictions.detach()
    if isinstance(predictions, Mapping):
        parts = predictions.items()
        return {name: _detached(part) for name, part in parts}
    if isinstance(predictions, list | tuple):
        return [_detached(part) for part in predictions]
    return predictions


def _class_rows(logits_NK: Tensor, names: Sequence[Any]) -> list[Prediction]:
    """Return the most probable class, and the probability of each."""
    rows = []
    shares_NK = logits_NK.softmax(dim=1)
    for shares_K in shares_NK.tolist():
        largest = max(shares_K)
        best = shares_K.index(largest)
        row: Prediction = {"class": names[best], "probability": largest}
        for name, share in zip(names, shares_K, strict=True):
            row[f"p({name})"] = share
        rows.append(row)
    return rows


def _value_rows(outputs: Tensor, names: Sequence[str]) -> list[Prediction]:
    keys = [f"predicted {name}" for name in names]
    numbers_NT = outputs.reshape(len(outputs), -1)
    rows = []
    for numbers_T in numbers_NT.tolist():
        row = dict(zip(keys, numbers_T, strict=True))
        rows.append(row)
    return rows


def _error_rows(outputs: Tensor, inputs: Tensor) -> list[Prediction]:
    """Return the mean error of each reconstruction, over its normalised values."""
    squares = (outputs - inputs).square()
    errors = squares.flatten(1).mean(dim=1).tolist()
    return [{"squared error": error} for error in errors]


def evaluated_stage(trainer: L.Trainer) -> str:
    """Return the stage that a `test_step` measures: `test`, or that of another last evaluation."""
    stage: str = getattr(trainer, "evaluated_stage", "test")
    return stage


def network_of(module: L.LightningModule) -> nn.Module:
    """Return a module's `network`, or the module itself if it has none."""
    network = getattr(module, "network", None)
    if isinstance(network, nn.Module):
        return network
    return module


class Classification(Task):
    """Trains a network to predict classes: logits, shape (N, K), for class indices, shape (N,).

    Logs the accuracy as `train/acc`, beside the loss.

    Args:
        label_smoothing: Part of a label's weight that is spread over all classes, in training only,
            in [0, 1).
        class_weights: Factor of a sample's cross-entropy by its class, in training only: a number
            per class, 0 or larger; `balanced`: inversely proportional to the number of its samples,
            1 on average over the training split; None: 1 each.
        loss: Function of logits and class indices that returns the mean loss; None: cross-entropy.
        class_counts: Samples of each class in the training split, if the data report them; for
            `balanced`.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `label_smoothing` or `class_weights` is out of its range, or combined with a
            custom loss.
    """

    class_weights_K: Tensor | None

    kind = "classes"
    sums = {"acc": 0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | str | None = None,
        loss: Loss | None = None,
        class_counts: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be a number in [0, 1)")
        if loss is not None and (label_smoothing or class_weights is not None):
            raise ValueError(
                "label_smoothing and class_weights apply to cross-entropy only, not to a custom "
                "loss"
            )
        weights_K = _class_weights(class_weights, class_counts)
        # Not in checkpoints: the configuration and the facts determine them.
        self.register_buffer("class_weights_K", weights_K, persistent=False)
        self.label_smoothing = label_smoothing
        self.loss = loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for normalised images and their classes, shape (N,)."""
        inputs, labels_N = batch
        logits_NK = self(inputs)
        loss = self._loss(logits_NK, labels_N)
        are_correct_N = logits_NK.argmax(dim=1) == labels_N
        return Outcome(loss, logits_NK, labels_N, {"acc": are_correct_N.sum()})

    def _loss(self, logits_NK: Tensor, labels_N: Tensor) -> Tensor:
        weights_K = self.class_weights_K
        if weights_K is not None and weights_K.shape != logits_NK.shape[1:]:
            raise ValueError(
                f"class_weights: must be {logits_NK.shape[1]} numbers, one per class; found "
                f"{len(weights_K)}"
            )
        if self.loss is not None:
            return self.loss(logits_NK, labels_N)
        smoothing = 0.0
        if self.training:
            smoothing = self.label_smoothing
        if weights_K is None or not self.training:
            return F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing)
        losses_N = F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing, reduction="none")
        # A mean over samples, unlike PyTorch's, which divides by a batch's weights, or those of a
        # process's part of it.
        return (weights_K[labels_N] * losses_N).mean()


def _class_weights(
    given: Sequence[float] | str | None, counts: Sequence[int] | None
) -> Tensor | None:
    """Return the factor of each class, shape (K,); None for 1 each."""
    if given is None:
        return None
    if given == "balanced":
        if counts is None:
            raise ValueError(
                "class_weights=balanced: these data do not report the class of each sample; give "
                "a number per class"
            )
        counts_K = torch.tensor(counts, dtype=torch.float32)
        mean = counts_K.sum() / counts_K.count_nonzero()
        return mean / counts_K.clamp(min=1)
    weights: list[Any] = []
    if isinstance(given, Sequence) and not isinstance(given, str):
        weights = list(given)
    are_numbers = all(type(each) in (int, float) and 0 <= each < math.inf for each in weights)
    if not are_numbers or not any(weights):
        raise ValueError(
            f"class_weights={given}: must be balanced, or a number per class, 0 or larger and "
            "not all 0"
        )
    return torch.tensor(weights, dtype=torch.float32)


class Regression(Task):
    """Trains a network to predict numbers, shape (N,) or (N, T), like the targets.

    Logs the mean absolute error as `train/mae`, beside the loss.

    Args:
        loss: Function of predictions and targets that returns the mean loss; None: the mean squared
            error.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.
    """

    kind = "values"
    sums = {"mae": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        loss: Loss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.loss = F.mse_loss if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return predictions and loss for inputs and targets."""
        inputs, targets = batch
        predictions = self(inputs)
        if targets.ndim == 1 and predictions.shape[1:] == (1,):
            predictions = predictions[:, 0]
        shape = tuple(predictions.shape)
        if shape != targets.shape:
            raise ValueError(f"predictions of shape {shape} for targets of {tuple(targets.shape)}")
        loss = self.loss(predictions, targets)
        errors = (predictions.detach() - targets).abs()
        mae_sum = errors.mean() * len(targets)
        return Outcome(loss, predictions, targets, {"mae": mae_sum})


class Autoencoder(Task):
    """Trains a network to reconstruct its input.

    A network that returns only the reconstruction is a plain autoencoder. A variational one (Kingma
    and Welling 2014, Auto-encoding variational Bayes) returns a tuple: the reconstruction, and mean
    and log-variance of the code, both of shape (N, Z). Its loss is the negative evidence lower
    bound, up to a constant. Both terms of the loss are logged, as `train/reconstruction` and
    `train/kl`, summed over the values of a sample, in nats.

    Args:
        beta: Weight of the Kullback-Leibler term (Higgins et al. 2017).
        loss: Function of outputs and inputs that returns the mean over all values; None: half of
            the mean squared error, the negative log-likelihood of a normal distribution with
            standard deviation 1. `torch.nn.BCELoss` is for pixels in [0, 1].
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
        loss: Loss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(beta, int | float) or not beta >= 0:
            raise ValueError(f"beta={beta}: must be a number, 0 or larger")
        self.beta = beta
        self.loss = _half_squared_error if loss is None else loss
        self._checked = not isinstance(loss, nn.BCELoss)  # which checks only outputs

    def step(self, batch: Any) -> Outcome:
        """Return reconstruction and loss for inputs, shape (N, ...).

        Targets, if the data have any, are ignored.
        """
        inputs: Tensor = batch
        if isinstance(batch, list | tuple):
            inputs = batch[0]
        if len(inputs) and not self._checked:
            self._checked = True
            if not 0 <= inputs.min() <= inputs.max() <= 1:
                raise ValueError(
                    "BCELoss needs inputs in [0, 1], such as pixels with data.normalize=unit"
                )
        outputs = self.network(inputs)
        code: list[Tensor] = []
        if isinstance(outputs, tuple):
            outputs, *code = outputs
        shape = tuple(outputs.shape)
        if shape != inputs.shape:
            raise ValueError(f"outputs of shape {shape} for inputs of {tuple(inputs.shape)}")
        num_values = inputs.shape[1:].numel()
        reconstruction = self.loss(outputs, inputs) * num_values
        kl = reconstruction.new_zeros(())
        if code:
            mean_NZ, log_variance_NZ = code
            kl_NZ = mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ
            kl = 0.5 * kl_NZ.sum(dim=1).mean()
        num = len(inputs)
        sums = {
            "reconstruction": reconstruction.detach() * num,
            "kl": kl.detach() * num,
        }
        loss = reconstruction + self.beta * kl
        return Outcome(loss, outputs, inputs, sums)


def _half_squared_error(outputs: Tensor, inputs: Tensor) -> Tensor:
    return 0.5 * F.mse_loss(outputs, inputs)


class Language(Task):
    """Trains a network to predict each next token of a text, by logits, shape (N, T, K).

    Logs the loss, in nats per token, and the accuracy of the most likely token, as `train/acc`.

    Args:
        loss: Function of logits, shape (N, K, T), and tokens, shape (N, T), that returns the mean
            loss; None: cross-entropy.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`; metrics receive
            (N, T, K) and (N, T).
    """

    kind = "text"
    sums = {"acc": 0.0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        loss: Loss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.loss = _cross_entropy if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for tokens and their next tokens, both of shape (N, T)."""
        tokens_NT, next_NT = batch
        logits_NTK = self(tokens_NT)
        are_correct_NT = logits_NTK.argmax(dim=2) == next_NT
        accuracies_N = are_correct_NT.float().mean(dim=1)
        logits_NKT = logits_NTK.transpose(1, 2)
        loss = self.loss(logits_NKT, next_NT)
        return Outcome(loss, logits_NTK, next_NT, {"acc": accuracies_N.sum()})


def _cross_entropy(logits_NKT: Tensor, tokens_NT: Tensor) -> Tensor:
    # PyTorch's own mean over several axes is nondeterministic on CUDA, and raises with
    # trainer.deterministic.
    losses_NT = F.cross_entropy(logits_NKT, tokens_NT, reduction="none")
    return losses_NT.mean()


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
        context_T = tokens_T[-max_context:]
        logits_1TK = network(context_T[None])
        logits_K = logits_1TK[0, -1].float().cpu()
        shares_K = (logits_K / temperature).softmax(dim=0)
        chosen = torch.multinomial(shares_K, 1, generator=generator)
        tokens_T = torch.cat([tokens_T, chosen.to(tokens_T.device)])
    return tokens_T
