"""Lightning's two trees, and its private parts, each with the public way that is missing.

Only this file names any. `lightning.pytorch` and `pytorch_lightning` are the same code, with
classes of their own: a trainer takes only those of its tree. Neither is imported here; what is
asked for is taken from the tree that the program has imported.

Lightning forgets its running results and the states of metrics when a run is stopped within an
epoch: `self.log(on_epoch=True)` would then return a mean over the rest of the epoch only. There is
no public access to them, nor to the flags of its loops, by which a resumed epoch differs from one
that was never stopped.
"""

import builtins
import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.exact.memory import lightning_bases, weights_and_metrics

if TYPE_CHECKING:
    from lightning import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import WeightAveraging
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torchmetrics import Metric

    from leyden.exact.ranks import Ranks

TREES = ("lightning.pytorch", "pytorch_lightning")

# Metadata of a logged value, from the arguments of `self.log`; plain values only.
OPTIONS = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
)


LoggedState = dict[str, Any]  # of a logged value or a metric


def imported_trees() -> list[Any]:
    """Return the trees that the program has imported."""
    trees = [sys.modules.get(name) for name in TREES]
    return [each for each in trees if hasattr(each, "Trainer")]


def tree_of(value: Any) -> Any:
    """Return the tree of an object's class, or of the one that it derives from.

    Raises:
        TypeError: It derives from none.
    """
    for base in type(value).__mro__:
        for name in TREES:
            if base.__module__.startswith(f"{name}."):
                return sys.modules[name]
    raise TypeError(f"{type(value).__name__} is of none of {', '.join(TREES)}")


def of_trees(path: str) -> tuple[type, ...]:
    """Return a class of Lightning, such as `callbacks.Timer`, of each imported tree."""
    found: list[type] = []
    for tree in imported_trees():
        with contextlib.suppress(AttributeError):  # an older version
            found.append(operator.attrgetter(path)(tree))
    return tuple(found)


@functools.cache
def derived(kind: Any, *bases: Any) -> Any:
    """Return a class as one that derives from classes of a tree, too, of the same name."""
    return type(kind.__name__, (kind, *bases), {"__module__": kind.__module__})


def searches() -> tuple[type, ...]:
    """Return the callbacks that search a learning rate or a batch size in each start."""
    return (*of_trees("callbacks.LearningRateFinder"), *of_trees("callbacks.BatchSizeFinder"))


def is_search(trainer: "Trainer") -> bool:
    """Return whether a `Tuner` has called `trainer.fit`, to search before a training.

    It adds a callback, which it marks by a private name.
    """
    found: list[Any] = [each for each in trainer.callbacks if isinstance(each, searches())]  # type: ignore[attr-defined]
    return any(each._early_exit for each in found)


def pickles(strategy: Any) -> bool:
    """Return whether a strategy's processes get the trainer by pickling it.

    The launcher's way to start them has no public name.
    """
    return getattr(strategy.launcher, "_start_method", "") in ("spawn", "forkserver")


def uncompiled(module: Any) -> Any:
    """Return the LightningModule that `torch.compile` was called for, or the module itself."""
    if type(module).__name__ == "OptimizedModule":
        module, *_ = module.children()
    return module


def is_overridden(name: str, owner: Any) -> bool:
    """Return whether a hook of a module or a data module is not Lightning's empty one."""
    return bool(tree_of(owner).utilities.model_helpers.is_overridden(name, owner))


def virtual_ranks(trainer: "Trainer | None") -> int | None:
    """Return the number of virtual ranks; None with a strategy that has none."""
    found = getattr(getattr(trainer, "strategy", None), "virtual_ranks", None)
    return found if isinstance(found, int) else None


def ranks_of(trainer: "Trainer") -> "Ranks | None":
    """Return this process's virtual ranks; None without them, and outside of training."""
    if virtual_ranks(trainer) is None:
        return None
    found: Ranks | None = trainer.strategy.ranks  # type: ignore[attr-defined]
    return found


def num_ranks(trainer: "Trainer") -> int:
    """Return the number of virtual ranks, or else of processes, that share the data."""
    return virtual_ranks(trainer) or trainer.world_size


def kind_of_ranks(trainer: "Trainer") -> str:
    """Return what shares the data, in words."""
    return "virtual ranks" if virtual_ranks(trainer) else "processes"


def saved_elsewhere(trainer: "Trainer", module: "LightningModule") -> list[Any]:
    """Return the trainer, and the module's weights, buffers, metrics, optimizers and schedules."""
    schedules = [each.scheduler for each in trainer.lr_scheduler_configs]
    return [trainer, *weights_and_metrics(module), *trainer.optimizers, *schedules]


def foreign_callbacks(trainer: "Trainer") -> dict[str, "Callback"]:
    """Return the callbacks whose state nobody else saves, with their names.

    They are neither Lightning's nor of this library; the state of Lightning's `SpikeDetection`
    lacks its running mean.
    """
    found: dict[str, Callback] = {}
    for number, each in enumerate(trainer.callbacks):  # type: ignore[attr-defined]
        kind: Any = type(each)
        package = kind.__module__.partition(".")[0]
        is_known = package == "leyden" or kind in lightning_bases(kind).values()
        if not is_known or "SpikeDetection" in lightning_bases(kind):
            found[f"callbacks[{number}]"] = each
    return found


def logged_state(trainer: "Trainer") -> LoggedState:
    """Return the values logged in the current training epoch, with metadata, by Lightning's keys.

    Of metric objects, whose states are saved separately, only the names are included.
    """
    values: LoggedState = {}
    metrics = []
    for key, result in _results(trainer).items():
        if result.has_reset:
            continue
        if not result.is_tensor:
            metrics.append(result.meta.metric_attribute)
        elif result.meta.sync.group is None:
            values[key] = _logged_value(result)
    return {"values": values, "metrics": metrics}


def _logged_value(result: Any) -> LoggedState:
    """Return a logged number with its metadata."""
    meta = result.meta
    reduce_fx = meta.reduce_fx
    is_builtin = reduce_fx in (sum, max, min)
    return {
        "options": {name: getattr(meta, name) for name in OPTIONS},
        "reduce_fx": [reduce_fx.__name__, is_builtin],
        "sync": [meta.sync.should, meta.sync.rank_zero_only],
        "metric": metric_state(result),
        "step": _copy_to(result._forward_cache),
    }


def restore_logged(trainer: "Trainer", module: "LightningModule", kept: LoggedState) -> list[Any]:
    """Restore a state of `logged_state`, and return the metrics that were logged as objects.

    Raises:
        Exception: The state is damaged.
    """
    results = _results(trainer)
    device = trainer.strategy.root_device
    for key, each in kept["values"].items():
        name, is_builtin = each["reduce_fx"]  # a function of torch, or the builtin of the same name
        if name not in ("mean", "sum", "max", "min"):
            raise ValueError(f"values are not reduced by {name}")
        reduce_fx = getattr(builtins if is_builtin else torch, name)
        should, rank_zero_only = each["sync"]
        options = {
            **each["options"],
            "sync_dist_fn": trainer.strategy.reduce,
            "rank_zero_only": rank_zero_only,
        }
        zero = torch.zeros((), device=device)
        results.log(value=zero, reduce_fx=reduce_fx, batch_size=1, **options)
        results[key].meta.sync.should = should  # not before, since it would gather this zero
        restore_metric(results[key], each["metric"])
        # The last step's value, which Lightning logs again at each step.
        results[key]._forward_cache = _copy_to(each["step"], device)
    # Otherwise the first logged value would reset them, as results of the previous epoch.
    trainer._logger_connector._first_loop_iter = True
    metrics: list[Any] = []
    for name in kept["metrics"]:
        if name is not None:
            metrics.append(module.get_submodule(name))
    return metrics


def discard_logged(trainer: "Trainer", metrics: list[Any]) -> None:
    """Undo `restore_logged`, as the restored results belong to an epoch that is complete."""
    _results(trainer).clear()
    trainer._logger_connector._first_loop_iter = None
    for metric in metrics:
        metric.reset()


def metric_state(metric: "Metric") -> LoggedState:
    """Return the states of a metric, on the CPU, and its number of updates."""
    states = {name: _copy_to(value) for name, value in metric.metric_state.items()}
    return {"states": states, "num_updates": metric.update_count}


def restore_metric(metric: "Metric", kept: LoggedState) -> None:
    """Restore a metric's state, as returned by `metric_state`.

    Raises:
        TypeError: The state belongs to another metric.
    """
    for name, here in metric.metric_state.items():
        value = kept["states"][name]
        # A state may change its shape, such as R2Score's.
        expected = list if isinstance(here, list) else Tensor
        if not isinstance(value, expected):
            raise TypeError(f"the state {name} of {type(metric).__name__} has the wrong type")
        copy = _copy_to(value, metric.device)
        setattr(metric, name, copy)
    if type(kept["num_updates"]) is not int:
        raise TypeError(f"the number of updates of {type(metric).__name__} is not a number")
    # Without updates `compute` warns; there is no public way to set their number.
    metric._update_count = kept["num_updates"]
    metric._computed = None


def _copy_to(value: Any, device: Any = "cpu") -> Any:
    """Return a copy of a state on a device: a tensor, a list of tensors, or nothing."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    return [_copy_to(part, device) for part in value]


def _results(trainer: "Trainer") -> Any:
    return trainer.fit_loop.epoch_loop._results


def logged_steps(trainer: "Trainer") -> int:
    """Return the current step of `self.log`: the batches after which an optimizer has stepped.

    `trainer.global_step` counts each step if several optimizers step in a batch. Lightning has no
    public name for this number.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def logged_steps_at(content: dict[str, Any]) -> int:
    """Return the step of `self.log` at a checkpoint, which has it by Lightning's private name."""
    return int(content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])


def training_names(trainer: "Trainer") -> set[str]:
    """Return the names in `trainer.callback_metrics` that this training epoch has logged so far."""
    return _metric_names(_results(trainer), steps=True)


def validation_names(trainer: "Trainer") -> set[str]:
    """Return the names in `trainer.callback_metrics` that the last validation has logged."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    return _metric_names(loop._results, steps=False)


def _metric_names(results: Any, *, steps: bool) -> set[str]:
    """Return Lightning's names of the means over an epoch and, with `steps`, of the step values."""
    names: set[str] = set()
    for result in results.values():
        if result.has_reset:
            continue
        # Each has two names, with and without the stage; both include the dataloader's index.
        if steps or result.meta.on_epoch:
            names.update(results._forked_name(result, False))
        if steps:
            names.update(results._forked_name(result, True))
    return names


def recreate_loaders(trainer: "Trainer") -> None:
    """Make Lightning create the training loaders again, if a schedule has counted their steps.

    Lightning restores the loaders' states when it creates them, and has no public way to postpone
    this. Loaders created earlier would start a new epoch.
    """
    trainer.fit_loop._combined_loader = None


def resume_by_epochs(trainer: "Trainer") -> None:
    """Make Lightning resume from the end of an epoch as such, if steps are limited, too.

    With `max_steps` it would take the epoch for an interrupted one, and end it twice. It asks a
    private method.
    """
    fit_loop: Any = trainer.fit_loop
    fit_loop._iteration_based_training = lambda: False


def prefetches(trainer: "Trainer | None") -> bool:
    """Return whether Lightning requests a training batch before it needs it.

    It does if its loaders together have no length, as it can't know otherwise which batch is the
    last: a limit of batches gives them one, and one loader without a length can take it from all.
    The loaders' combination has no public name.
    """
    if not trainer:
        return False
    combined = trainer.fit_loop._combined_loader
    try:
        len(combined)  # type: ignore[arg-type]
    except RuntimeError:  # Lightning does not iterate over them
        return False
    except (TypeError, NotImplementedError):
        return combined is not None
    return False


def forget_iterators(trainer: "Trainer") -> None:
    """Make Lightning create the loaders' iterators at the first batch of a new epoch.

    It keeps those that it has made to restore the loaders' states, which drew numbers before the
    random states were restored. The flag has no public name.
    """
    trainer.fit_loop._resuming_from_checkpoint = False


def step_schedules_again(trainer: "Trainer") -> None:
    """Make Lightning step schedules that follow a metric at the end of a resumed epoch, too.

    Its setter of this flag needs `resume_by_epochs` if steps are limited.
    """
    resume_by_epochs(trainer)
    trainer.fit_loop.restarting = False


def combining_mode(loaders: Any) -> str | None:
    """Return how loaders are combined, such as `min_size`.

    It is None for any other loader, and has no public name.
    """
    kind: Any = type(loaders)
    return loaders._mode if "CombinedLoader" in lightning_bases(kind) else None


def place_average(callback: "WeightAveraging", device: torch.device) -> None:
    """Make Lightning place an average on a device, which its constructor does not know."""
    callback._device = device


def count_skipped_batch(trainer: "Trainer") -> None:
    """Count a batch that is None as started, before a checkpoint is saved.

    Lightning skips it, does not count it, and would take a resumed run for one that was stopped
    within a batch, and leave out the validation of its epoch.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    each: Any
    for each in (progress.current, progress.total):
        each.started = each.ready


def complete_last_batch(trainer: "Trainer") -> None:
    """Count the last batch of an epoch as complete.

    If `on_train_batch_start` has ended the epoch early, Lightning has counted it as ready but not
    as completed, and a resumed run would be off by one batch.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    each: Any
    for each in (progress.current, progress.total):
        each.started = each.ready
        each.processed = each.ready
        each.completed = each.ready


OfTrainer = Callable[["Trainer"], None]


@contextlib.contextmanager
def after_each(trainer: "Trainer", batch: OfTrainer, epoch: OfTrainer) -> Iterator[None]:
    """Context in which functions are called after each batch and each epoch.

    Lightning has no hook after a step's validation, after the schedules that follow a metric, or
    after the loggers have the metrics.
    """
    fit_loop: Any = trainer.fit_loop
    batches = fit_loop.epoch_loop
    fit_loop.on_advance_end = _followed(fit_loop.on_advance_end, epoch, trainer)
    batches.on_advance_end = _followed(batches.on_advance_end, batch, trainer)
    try:
        yield
    finally:
        del fit_loop.on_advance_end
        del batches.on_advance_end


@contextlib.contextmanager
def in_place_of_check(
    trainer: "Trainer", call: Callable[[Callable[[], None]], None]
) -> Iterator[None]:
    """Context in which a function is called in place of the sanity check, which it gets.

    Lightning has no way to omit the check but a setting, which a module may read.
    """
    of_trainer: Any = trainer
    of_trainer._run_sanity_check = functools.partial(call, of_trainer._run_sanity_check)
    try:
        yield
    finally:
        del of_trainer._run_sanity_check


def _followed(hook: Callable[..., None], call: OfTrainer, trainer: "Trainer") -> Any:
    def both(*args: Any) -> None:
        hook(*args)
        call(trainer)

    return both


@contextlib.contextmanager
def counted_as_in_hooks(trainer: "Trainer", *, is_within_epoch: bool) -> Iterator[None]:
    """Context in which the last batch, or the epoch, counts as in its last hook.

    Lightning expects a checkpoint there. Otherwise a resumed run would count it twice.
    """
    loop = trainer.fit_loop
    progress = loop.epoch_loop.batch_progress if is_within_epoch else loop.epoch_progress
    counts: Any = (progress.current, progress.total)
    stepped = loop.epoch_loop._batches_that_stepped
    for each in counts:
        each.completed -= 1
    if is_within_epoch:
        loop.epoch_loop._batches_that_stepped = stepped - 1
    try:
        yield
    finally:
        loop.epoch_loop._batches_that_stepped = stepped
        for each in counts:
            each.completed += 1


def ends_epoch(trainer: "Trainer") -> bool:
    """Return whether the epoch ends with this batch."""
    return bool(trainer.is_last_batch or trainer.fit_loop.epoch_loop.done)


def omit_validation(trainer: "Trainer") -> None:
    """Make Lightning not begin a validation that was complete when the checkpoint was saved.

    That would draw numbers.
    """
    loop: Any = trainer.fit_loop.epoch_loop.val_loop
    loop.increment_progress_to_evaluation_end = lambda: None


def show_epoch(trainer: "Trainer", module: "LightningModule") -> None:
    """Let Lightning's progress bar begin within an epoch, whose first hook it has not seen."""
    bar = trainer.progress_bar_callback
    begin = getattr(type(bar), "on_train_epoch_start", None)
    if getattr(begin, "__module__", "").startswith(TREES):  # no other one's, as it may do more
        bar.on_train_epoch_start(trainer, module)  # type: ignore[union-attr]


def results_of(owner: Any) -> Any:
    """Return the values logged in a loop, or in that which the trainer is in."""
    return owner._results


def set_results(loop: Any, results: Any) -> None:
    """Let a loop log to other values."""
    loop._results = results


def share_data_over_all(strategy: "ModelParallelStrategy") -> None:
    """Make all processes share the data.

    Their number is not known where Lightning takes it, in the constructor.
    """
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes
