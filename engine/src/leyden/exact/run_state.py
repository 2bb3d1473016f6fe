"""State that each process saves in the checkpoint, so that a resumed run equals one that was never stopped.

Start hooks are those that Lightning calls before the first batch, such as `setup` and `on_train_start`.
"""

import functools
import random
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from leyden.config.errors import UserError
from leyden.config.terminal import some_of, warn
from leyden.exact import logged_metrics
from leyden.exact.encoding import has_state_dict
from leyden.exact.first_batches import FirstBatches, divides_batches, first_batches, first_batches_differ
from leyden.exact.object_state import (
    PARTS,
    ObjectState,
    Path,
    digests,
    entry_name,
    is_generator,
    metrics_of,
    path_name,
    path_of,
    reason,
    saved_elsewhere,
    selected,
    weights_and_metrics,
)
from leyden.exact.random_state import random_states, restore_random_states, seed_entropy
from leyden.exact.resumable import flatten_loaders, gather_from_processes
from leyden.run.process import is_main_process

T = TypeVar("T")
MAX_NAMES = 8  # of attributes in a message


class Gradients(L.Callback):
    """Saves the gradients of a module with manual optimization, so that a resumed run continues to accumulate them.

    Such a module can accumulate the gradients of one optimizer over several batches, while another one steps in
    each batch; then no step leaves all gradients empty. With Lightning's own accumulation, checkpoints are written
    only after an optimizer step, when no gradients are accumulated.
    """

    state_key = "Gradients"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the module, for its gradients, and the trainer, for the rank."""
        self._trainer: L.Trainer = trainer
        self._module = pl_module

    def state_dict(self) -> dict[str, Any]:
        """Return a list of each process's gradients; empty with automatic optimization."""
        if self._module.automatic_optimization:
            return {}
        parameters = self._module.named_parameters()
        mine = {name: each.grad.detach().cpu() for name, each in parameters if each.grad is not None}
        return {"processes": gather_from_processes(mine)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this process's gradients until training starts."""
        every = state_dict.get("processes") or [{}]
        kept = every[min(self._trainer.global_rank, len(every) - 1)]
        shapes = {name: each.shape for name, each in self._module.named_parameters()}
        if wrong := [name for name, each in kept.items() if shapes.get(name) != each.shape]:
            raise ValueError(f"the gradient of {wrong[0]} fits no parameter")
        self._kept = kept

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the gradients."""
        for name, parameter in pl_module.named_parameters():
            if name in self._kept:
                parameter.grad = self._kept[name].to(parameter.device)
        self._kept = {}


class ModuleHooks(L.Callback):
    """Calls the module's `on_train_batch_end` before a checkpoint of this step is written.

    The hook may update an average of weights. Lightning calls it after all callbacks, so the checkpoint would lack
    its changes.
    """

    def __init__(self) -> None:
        self._hook: Callable[..., None] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take over the module's hook."""
        if stage == "fit" and is_overridden("on_train_batch_end", pl_module):
            self._hook = pl_module.on_train_batch_end
            pl_module.on_train_batch_end = _no_op  # type: ignore[method-assign]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Return the hook to the module."""
        if self._hook:
            del pl_module.on_train_batch_end
            self._hook = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call the hook."""
        if self._hook:
            self._hook(outputs, batch, batch_idx)


class BeforeEnd(L.Callback):
    """Takes a snapshot of the module before other callbacks, and the module, change it in `on_train_end`.

    It also counts a batch that is None as started, before a checkpoint is saved: Lightning skips it, does not count it, and
    would take a resumed run for one that was stopped within a batch, and leave out the validation of its epoch.

    Args:
        state: The callback that keeps the snapshot.
    """

    def __init__(self, state: "RunState") -> None:
        self._state = state

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch that is None."""
        if batch is None:
            progress = trainer.fit_loop.epoch_loop.batch_progress
            each: Any
            for each in (progress.current, progress.total):
                each.started = each.ready

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the snapshot."""
        self._state.note_end(pl_module)


def _no_op(outputs: Any, batch: Any, batch_idx: int) -> None:
    """Do nothing, in place of a hook that was already called."""


NOTHING_LOGGED: dict[str, Any] = {"values": {}, "metrics": []}
UNSAVED = " and can't be saved in a checkpoint"
UNSEEN = "can't be looked at"
NOT_RESTORED = "can't be restored from the checkpoint"


class OrderedAverage:
    """Averages the gradients of DDP's processes in an order that is the same in each start.

    DDP averages gradients in buckets, and regroups these after the first backward pass of each start. A gradient's place
    in its bucket decides in which order gloo adds it up, and sums of three or more numbers depend on their order: a
    resumed run would differ by rounding. Here all gradients are averaged as one tensor, in the order of the parameters.
    DDP's `find_unused_parameters` never regroups either, but hides parameters that were forgotten, and fails with
    reentrant checkpointing of activations.

    Args:
        model: The model, which calls `average` with each bucket.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        self._places = {id(each): n for n, each in enumerate(model.parameters())}
        self._gradients: dict[int, Tensor] = {}  # by the place of their parameter
        self._buckets: list[tuple[torch.futures.Future[Tensor], Tensor]] = []
        model.register_comm_hook(None, self.average)

    def average(self, state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Keep the gradients of a bucket; with the last one, average all."""
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        buffer = bucket.buffer().div_(torch.distributed.get_world_size())
        self._buckets.append((future, buffer))
        if buffer.is_sparse:  # of one parameter
            torch.distributed.all_reduce(buffer)
        else:
            places = [self._places[id(each)] for each in bucket.parameters()]
            self._gradients |= zip(places, bucket.gradients(), strict=True)
        if bucket.is_last():
            gradients = [each for _, each in sorted(self._gradients.items())]
            if gradients:
                joined = torch.cat([each.flatten() for each in gradients])
                torch.distributed.all_reduce(joined)
                for each, summed in zip(
                    gradients, torch.split(joined, [each.numel() for each in gradients]), strict=True
                ):
                    each.copy_(summed.view_as(each))
            for done, averaged in self._buckets:
                done.set_result(averaged)
            self._gradients, self._buckets = {}, []
        return future


LOADER_NOT_RESTORED = "a training loader could not be restored to its position; the epoch would restart"


class RunState(L.Callback):
    """Saves the facts of the data and, for each process, random states, running means and changed attributes.

    The running means of an interrupted epoch are those of `self.log(on_epoch=True)`, which Lightning does not save,
    and the states of all torchmetrics metrics in the module. Attributes of the module, the callbacks and the data
    that change during training are saved if they consist of plain values (`ObjectState`); a warning names the
    others.

    The network is initialized with the same random numbers in all processes. After that, each process draws other
    numbers, determined by rank and seed, for dropout and augmentation. Rank 0 draws the same numbers as a single
    process would.

    If the run's seed differs from the checkpoint's, which is possible only in a fork, the run keeps its own random
    states.

    Args:
        facts: Facts of the data, as plain values.
        seed: Seed of the run.
        data: Digest of the data settings; a fork can have other settings, and then other batches.
        exact: Action if something changes that can't be saved: `report` warns, `require` ends the run, `off` does
            nothing.
    """

    state_key = "RankState"  # fixed key in the checkpoint, independent of the class name

    def __init__(
        self, facts: dict[str, Any], seed: int, data: str, exact: Literal["report", "require", "off"]
    ) -> None:
        self.facts, self.seed, self.data, self.exact = facts, seed, data, exact
        self.is_restored = False  # true from the first batch on
        self._logged: logged_metrics.LoggedState | None = None  # logged results of the interrupted epoch
        self._resumed: dict[str, Any] = {}  # this process's part of the checkpoint
        self._same_seed = self._same_data = True
        self._loaders: list[Any] = []  # states of the dataloaders in the checkpoint
        self._objects: ObjectState | None = None
        self._made: dict[Path, str] = {}  # digests of the module's attributes before the start hooks
        self._at_start: list[dict[str, Any]] = []  # the module's attributes after the start hooks
        self._set_up: list[dict[str, Any]] = []  # the entries of `_at_start` that start hooks have set
        self._at_end: ObjectState | None = None  # the module's attributes before hooks of the end
        self._accumulate = 1
        self._requires_grad: dict[str, bool] = {}  # by parameter name, at the start
        # Attributes of optimizers and schedules outside their `state_dict`.
        self._stepping_attributes: ObjectState | None = None
        self._versions: dict[str, int] = {}  # PyTorch's version counter by parameter name, in `on_fit_start`
        self._set_at_start: list[str] = []  # names of parameters that start hooks have changed
        self._val: FirstBatches = []  # of the validation split
        self._custom_loaders: list[Any] = []  # training loaders without a state of their own
        self._reported: set[str] = set()  # names that were reported

    def note_made(self, module: L.LightningModule) -> None:
        """Record the attributes of a newly created module, before start hooks change them."""
        self._made = self._guarded("module", lambda: digests(_of_module(module).values()), {})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the trainer, for the rank, and the module, for its metrics; seed each rank above 0 differently."""
        self._trainer: L.Trainer = trainer
        self._module = pl_module
        if stage == "fit" and trainer.global_rank > 0:
            seeds = np.random.SeedSequence([torch.initial_seed(), trainer.global_rank]).generate_state(3).tolist()
            random.seed(seeds[0])
            np.random.seed(seeds[1])
            torch.manual_seed(seeds[2])
        if stage == "fit":
            seed_entropy(self.seed, f"training of rank {trainer.global_rank}")

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts, from which the network can be built without the data.

        Reports keys of the state dict that a hook has changed.
        """
        checkpoint["facts"] = self.facts
        others = sorted({*checkpoint["state_dict"]} ^ {*pl_module.state_dict()})
        self._report([f"module.{name}" for name in others])

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states of the dataloaders."""
        self._loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make Lightning recreate the dataloaders, if a schedule has already created them to count the steps.

        Lightning restores the loaders' states when it creates them, and has no public way to postpone this. Loaders
        created earlier would start a new epoch.
        """
        if self._resumed:
            trainer.fit_loop._combined_loader = None
        # To find parameters that start hooks change, which they would do again on resume. The counter is private.
        self._versions = {name: each._version for name, each in pl_module.named_parameters()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the logged results, which Lightning has just cleared, and the rest after the last start hook."""
        if self._logged:
            self._logged.restore()
        self._fix_order_of_sums(trainer)
        strategy, original = trainer.strategy, trainer.strategy.on_train_start

        def on_train_start() -> None:  # the last hook before the first batch is trained on
            del strategy.on_train_start
            original()
            self._restore_all(trainer, pl_module)
            self.is_restored = True

        strategy.on_train_start = on_train_start  # type: ignore[method-assign]

    def _fix_order_of_sums(self, trainer: L.Trainer) -> None:
        """Make DDP add up gradients in the same order in each start; announce processes of which this is unknown.

        The sum of two gradients has no order.
        """
        model = trainer.strategy.model
        if not isinstance(model, DistributedDataParallel) or trainer.world_size <= 2:
            return
        backend: str = torch.distributed.get_backend()
        is_complex = any(each.is_complex() for each in model.parameters())
        if backend == "gloo" and not is_complex:  # a bucket has no right views of complex gradients
            try:
                OrderedAverage(model)
                return
            except RuntimeError:  # the strategy has a communication hook of its own
                backend = "a communication hook"
        kind = "complex gradients" if is_complex else "gradients"
        self._announce(f"{backend} may add up the {kind} of {trainer.world_size} processes in another order")

    def _restore_all(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the snapshot of all objects before training; then restore the checkpoint's changes."""
        loaders = flatten_loaders(trainer.train_dataloader)
        unseen = [name for loader in loaders if hasattr(loader, "take_snapshot") for name in loader.take_snapshot()]
        foreign = {
            f"callbacks[{n}]": each
            for n, each in enumerate(trainer.callbacks)  # type: ignore[attr-defined]
            if type(each).__module__.partition(".")[0] not in ("leyden", "lightning")
        }
        for each in (module, trainer.datamodule):  # type: ignore[attr-defined]
            _ = each.hparams  # Lightning creates it at the first access
        self._val = []
        if trainer.limit_val_batches:
            self._val = first_batches(trainer.datamodule, "val", self.seed)  # type: ignore[attr-defined]
        self._custom_loaders = [loader for loader in loaders if hasattr(loader, "epoch_state")]
        others = [loader for loader in loaders if not isinstance(loader, DataLoader) and not has_state_dict(loader)]
        custom = {"train_dataloader" + f"s[{n}]" * (len(others) > 1): each for n, each in enumerate(others)}
        roots = {"module": module, **foreign, "data": trainer.datamodule, **custom}  # type: ignore[attr-defined]
        with_parts = [
            loader for loader in loaders if isinstance(loader, DataLoader) and hasattr(loader, "after_replay")
        ]
        of_loaders = [getattr(loader, name, None) for loader in with_parts for name in PARTS]
        self._objects = ObjectState(roots, lambda: [*saved_elsewhere(trainer, module), *of_loaders])
        self._report(unseen + self._objects.unseen, UNSEEN)
        self._at_start = self._guarded("module", lambda: _of_module(module).values(), [])
        set_up = {path for path, digest in digests(self._at_start).items() if digest != self._made.get(path)}
        self._set_up = selected(self._at_start, set_up.__contains__)
        self._requires_grad = {name: each.requires_grad for name, each in module.named_parameters()}
        self._accumulate = trainer.accumulate_grad_batches
        self._stepping_attributes = self._guarded("optimizers", lambda: _unsaved_attributes(trainer), None)
        set_at_start = {
            name for name, each in module.named_parameters() if self._versions.get(name) != each._version
        }
        self._set_at_start = [f"module.{name}" for name in sorted(set_at_start)]
        if not self._resumed:
            return
        self._refuse_other_split(trainer)
        is_divided = divides_batches(trainer.datamodule)  # type: ignore[attr-defined]
        is_within_epoch = trainer.fit_loop.restarting  # otherwise Lightning starts a new epoch, with new loaders
        stateful = [loader for loader in loaders if hasattr(loader, "state_dict")]
        if len(stateful) != len(self._loaders):
            raise UserError(LOADER_NOT_RESTORED)
        for loader, state in zip(stateful, self._loaders, strict=True):
            self._compare_workers(loader, state)
            if not hasattr(loader, "after_replay"):
                if is_within_epoch and is_divided and loader.state_dict()["position"] != state["position"]:
                    raise UserError(LOADER_NOT_RESTORED)
            elif not is_within_epoch:
                is_same = loader.restore_owned(state, trainer.current_epoch - 1)
                self._report(list(loader.not_restored), NOT_RESTORED)
                if not is_same:
                    self._refuse_other_batches([*loader.lost_in(state), *loader.not_restored])
            elif loader.position != loader.position_in(state):
                raise UserError(LOADER_NOT_RESTORED)
            elif loader.is_same is None:  # unknown: the loader replays nothing before its first batch is requested
                loader.after_replay = functools.partial(self._after_replay, loader, state)
            elif not loader.is_same:
                self._report_other_batches(loader, state)
        if not is_within_epoch:
            for loader, state in zip(self._custom_loaders, self._resumed["custom_loaders"], strict=False):
                if not loader.has_same_epoch(state):
                    self._refuse_other_batches([])
            # Otherwise Lightning keeps an iterator that drew numbers before the random states were restored.
            trainer.fit_loop._resuming_from_checkpoint = False
        self._restore_objects()
        if not is_within_epoch and module.automatic_optimization:
            self._step_plateaus(trainer)
        parameters = dict(module.named_parameters())
        for name, value in self._resumed["requires_grad"].items():
            if name in parameters:
                parameters[name].requires_grad_(value)
        trainer.accumulate_grad_batches = self._resumed["accumulate"] or trainer.accumulate_grad_batches
        if self._same_seed:
            restore_random_states(self._resumed)
            if self._resumed["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._resumed["cuda"])
            if self._resumed["mps"] is not None and torch.backends.mps.is_available():
                torch.mps.set_rng_state(self._resumed["mps"])

    def _compare_workers(self, loader: Any, state: dict[str, Any]) -> None:
        """Announce another number of worker processes, which can change what a dataset draws or counts."""
        if not (hasattr(loader, "workers_in") and self._same_seed and self._same_data):
            return
        if (then := loader.workers_in(state)) != loader.num_workers:
            self._announce(
                f"batches were read by {then} worker processes and are now read by {loader.num_workers}, "
                "which can change what a dataset draws or counts"
            )

    def _restore_objects(self) -> None:
        assert self._objects
        kept = self._resumed["objects"]
        lost = self._objects.restore(kept if self._same_seed else [each for each in kept if not is_generator(each)])
        self._report(lost, NOT_RESTORED)

    def _after_replay(self, loader: Any, state: dict[str, Any], is_same: bool) -> None:
        """Undo the changes that replaying the epoch has made to objects; report batches that differ."""
        self._restore_objects()
        self._report(list(loader.not_restored), NOT_RESTORED)
        if not is_same:
            self._report_other_batches(loader, state)

    def _report_other_batches(self, loader: Any, state: dict[str, Any]) -> None:
        """Announce that a replayed epoch has other batches if the module generates them; otherwise refuse them."""
        if loader.is_from_module and loader.is_same_order:
            self._announce(
                "the module generates the training batches, and its weights have changed since: the batches before "
                "the stop can't be reproduced"
            )
        else:
            self._refuse_other_batches([*loader.lost_in(state), *loader.not_restored])

    def _refuse_other_batches(self, lost: list[str]) -> None:
        """Refuse to resume with different batches; only warn if unsaved state of the loader explains them.

        A fork with another seed or other data may have other batches.

        Args:
            lost: Names of the loader's state that changed and could not be saved.
        """
        if not (self._same_seed and self._same_data):
            return
        found = "the training batches, or their order, differ from those before the run was stopped"
        if self.exact == "require" or not (lost or self.exact == "off"):
            raise UserError(
                f"{found}: some samples would be used twice in an epoch, or not at all; exact=off resumes anyway"
            )
        if self.exact == "report" and is_main_process():
            warn(f"{found}: some samples are used twice in an epoch, or not at all")

    def _refuse_other_split(self, trainer: L.Trainer) -> None:
        """Refuse a changed validation split, which may contain samples that were trained on."""
        before = self._resumed["val"]
        if not self._val or before == self._val or self.exact == "off" or not (self._same_seed and self._same_data):
            return
        if first_batches_differ(trainer.datamodule, "val", self.seed, before):  # type: ignore[attr-defined]
            raise UserError(
                "the validation split differs from that before the run was stopped, and may contain training samples; "
                "exact=off resumes anyway"
            )

    def _step_plateaus(self, trainer: L.Trainer) -> None:
        """Step the `ReduceLROnPlateau` schedulers.

        Lightning steps them after the last checkpoint of an epoch, and omits this step when a run resumes.
        """
        for config in trainer.lr_scheduler_configs:
            value = self._resumed["monitored"].get(config.monitor)
            is_due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if isinstance(config.scheduler, ReduceLROnPlateau) and is_due and value is not None:
                config.scheduler.step(value)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the restored results; Lightning calls this hook in a new epoch, not in a resumed one."""
        if self._logged:
            self._logged.discard()
            self._logged = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the logged results of the resumed epoch; let it end like an uninterrupted one."""
        self._logged = None
        # If `on_train_batch_start` has ended the epoch early, Lightning has counted the last batch as ready but not
        # as completed, and a resumed run would be off by one batch.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        each: Any
        for each in (progress.current, progress.total):
            each.started = each.processed = each.completed = each.ready
        # Lightning does not step schedules that follow a metric while this is True. Its public setter does not work
        # if steps are limited.
        trainer.fit_loop._restarting = False

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all processes, as tensors and plain values, with the seed and the data's digest."""
        objects, lost = self._objects.changes() if self._objects else ([], [])
        loaders = flatten_loaders(self._trainer.train_dataloader) if self._objects else []
        lost += self._set_at_start
        if (before := self._stepping_attributes) is not None:
            lost += self._guarded("optimizers", lambda: _unsaved_attributes(self._trainer).differing(before), [])
        lost += [f"data.{name}" for loader in loaders if hasattr(loader, "lost") for name in loader.lost()]
        paths = {path_of(entry) for entry in objects}
        parameters = dict(self._module.named_parameters())
        accumulate = self._trainer.accumulate_grad_batches
        metrics = [
            (name, self._guarded(f"module.{name}", functools.partial(logged_metrics.metric_state, metric), None))
            for name, metric in metrics_of(self._module)
        ]
        mine = {
            **random_states(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
            "metrics": {name: state for name, state in metrics if state is not None},
            "logged": self._guarded(
                "logged values", lambda: logged_metrics.logged_state(self._trainer), NOTHING_LOGGED
            ),
            "objects": objects,
            "set_up": selected(self._set_up, lambda path: path not in paths),
            "lost": lost,
            "val": self._val,
            "custom_loaders": [loader.epoch_state() for loader in self._custom_loaders],
            "requires_grad": {
                name: each.requires_grad
                for name, each in parameters.items()
                if name in self._resumed.get("requires_grad", {})
                or each.requires_grad != self._requires_grad.get(name, True)
            },
            "monitored": {
                each.monitor: self._trainer.callback_metrics[each.monitor].item()
                for each in self._trainer.lr_scheduler_configs
                if each.monitor in self._trainer.callback_metrics
            },
            "accumulate": accumulate if accumulate != self._accumulate or self._resumed.get("accumulate") else None,
        }
        self._report(lost)
        return {"processes": gather_from_processes(mine), "seed": self.seed, "data": self.data}

    def note_end(self, module: L.LightningModule) -> None:
        """Take a snapshot of the module's attributes when training has ended, before hooks of the end change them."""
        self._at_end = self._guarded("module", lambda: _of_module(module), None)

    def set_late(self, module: L.LightningModule) -> set[Path]:
        """Return the attributes of the module that changed after training, as in a hook `on_train_end`."""
        late = _of_module(module).changed_since(self._at_end) if self._at_end else set()
        if late and is_main_process():
            names = some_of([path_name(path) for path in sorted(late, key=repr)], MAX_NAMES)
            warn(f"{names} changed after the last checkpoint: evaluate, predict and export will not have that")
        return late

    def restore_best(self, module: L.LightningModule, content: dict[str, Any], late: set[Path]) -> None:
        """Restore the module's attributes at a checkpoint.

        Attributes that changed only after the checkpoint get the values from before training, but for those in
        `late`, which stay.
        """
        kept = content["callbacks"][self.state_key]["processes"][0]["objects"]
        kept = selected(kept, lambda path: path not in late)
        changed = {path_of(entry) for entry in (self._objects.changes()[0] if self._objects else [])}
        changed -= {path_of(entry) for entry in kept} | late
        _of_module(module).remove(changed - {path_of(entry) for entry in self._at_start})
        self._report(_restore(module, selected(self._at_start, changed.__contains__), kept), NOT_RESTORED)

    def _report(self, lost: list[str], what: str = "") -> None:
        """Report state that can't be saved or restored, once per name; the names have a reason in parentheses."""
        new = [name for name in dict.fromkeys(lost) if name.partition(" (")[0] not in self._reported]
        self._reported |= {name.partition(" (")[0] for name in new}
        if new:
            self._announce(f"{some_of(new, MAX_NAMES)} {what or 'change' + 's' * (len(new) == 1) + UNSAVED}")

    def _guarded(self, name: str, look: Callable[[], T], default: T) -> T:
        """Return the result of a function that looks at other people's objects; announce any error, which ends no run."""
        try:
            return look()
        except Exception as error:
            self._report([f"{name} ({reason(error)})"], UNSEEN)
            return default

    def _announce(self, text: str) -> None:
        """Warn that a resumed run may not be bit-identical; with `exact=require`, raise an error."""
        if self.exact == "off":
            return
        if self.exact == "require":
            raise UserError(f"exact=require: {text}")
        if is_main_process():
            warn(f"exact resume is not guaranteed: {text}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore this process's metrics; keep the rest of its state until all start hooks have run."""
        every = state_dict["processes"]
        self._resumed = every[min(self._trainer.global_rank, len(every) - 1)]
        _check_state(self._resumed)
        self._same_seed, self._same_data = state_dict["seed"] == self.seed, state_dict["data"] == self.data
        for name, metric in metrics_of(self._module):
            if name in self._resumed["metrics"]:
                try:
                    logged_metrics.restore_metric(metric, self._resumed["metrics"][name])
                except Exception as error:
                    self._report([f"module.{name} ({reason(error)})"], NOT_RESTORED)
        self._logged = logged_metrics.LoggedState(self._trainer, self._module, self._resumed["logged"])


def first_batches_in(content: dict[str, Any]) -> Any:
    """Return the first batches of the validation split that a checkpoint's run had; None if they are unknown."""
    return content["callbacks"][RunState.state_key]["processes"][0].get("val")


def restore_module(module: L.LightningModule, content: dict[str, Any]) -> None:
    """Restore a module's attributes at a checkpoint, besides its weights.

    The checkpoint contains the attributes that changed in training, and those that start hooks set.

    Raises:
        ValueError: The module has no such attributes.
    """
    mine = content["callbacks"][RunState.state_key]["processes"][0]
    if lost := _restore(module, mine["set_up"], mine["objects"]):
        raise ValueError(f"{lost[0]} {NOT_RESTORED}")


def _restore(module: L.LightningModule, first: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[str]:
    """Restore a module's attributes from the entries of `first` that it has, then from those of `kept`.

    Entries of `kept` that belong to other objects are skipped, unless the module shares these.

    Returns:
        The names of what could not be restored, each with a reason.
    """
    here = _of_module(module)
    of_module = selected(kept, lambda path: path[0][1] == "module" or here.has(path))
    return here.restore(selected(first, here.has)) + here.restore(of_module)


def _of_module(module: L.LightningModule) -> ObjectState:
    """Return the state of a module's attributes, without its weights and metrics."""
    _ = module.hparams  # Lightning creates it at the first access
    return ObjectState({"module": module}, lambda: weights_and_metrics(module))


def _unsaved_attributes(trainer: L.Trainer) -> ObjectState:
    """Return a snapshot of the attributes of optimizers and schedules that are not in their `state_dict`."""
    of_optimizers = {*vars(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))}
    beside: dict[str, Any] = {}
    for n, optimizer in enumerate(trainer.optimizers):
        names = {*vars(optimizer)} - of_optimizers
        beside |= {f"optimizers[{n}].{name}": vars(optimizer)[name] for name in names}
    for n, config in enumerate(trainer.lr_scheduler_configs):
        names = {*vars(config.scheduler)} - {*config.scheduler.state_dict(), "optimizer"} | {"lr_lambdas"}
        beside |= {f"schedules[{n}].{name}": vars(config.scheduler).get(name) for name in names}
    weights = [
        each for optimizer in trainer.optimizers for group in optimizer.param_groups for each in group["params"]
    ]
    of_state = [
        each for optimizer in trainer.optimizers for state in optimizer.state.values() for each in state.values()
    ]
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    return ObjectState(beside, lambda: [*trainer.optimizers, *schedules, *weights, *of_state])


def _check_state(mine: dict[str, Any]) -> None:
    """Check that the state restored later is valid, before the run directory changes.

    Raises:
        TypeError, ValueError, KeyError: The state is damaged.
    """
    here = random_states()
    try:
        restore_random_states(mine)
    finally:
        restore_random_states(here)
    kinds = {
        "objects": list,
        "set_up": list,
        "lost": list,
        "custom_loaders": list,
        "val": list,
        "requires_grad": dict,
        "monitored": dict,
        "accumulate": int | None,
    }
    for name, kind in kinds.items():
        if not isinstance(mine.get(name), kind):
            raise TypeError(f"{name} is not a {kind}")
    values = [*mine["monitored"].values(), *mine["requires_grad"].values()]
    if not all(isinstance(each, float | int) for each in values):
        raise TypeError("a value of a schedule or a parameter is not a number")
    for entry in mine["objects"]:
        entry_name(entry), entry["in_place"]
    for name in ("cuda", "mps"):
        if not isinstance(mine[name], torch.Tensor | None):
            raise TypeError(f"the random state of {name} is not a tensor")
