"""State that each process saves in the checkpoint, so that a resumed run equals an undisturbed one.

Start hooks are those that Lightning calls before the first batch, such as `setup` and
`on_train_start`.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from leyden.exact import ExactError, lightning
from leyden.exact.last import content_of_hooks
from leyden.exact.lightning import foreign_callbacks, is_overridden, of_trees, saved_elsewhere
from leyden.exact.loaders import (
    LOADER_PARTS,
    apart_from_first,
    check_number,
    flatten_loaders,
    gather_from_processes,
    of_this_process,
)
from leyden.exact.memory import (
    NOT_RESTORED,
    NOT_SEEN,
    Memory,
    Mode,
    Reporter,
    StatePath,
    has_state_dict,
    metrics_of,
    path_name,
    reason,
    say,
    thaw,
    weights_and_metrics,
)
from leyden.exact.random_state import (
    check_same_seed,
    random_states,
    restore_random_states,
    seed_entropy,
    seed_rank,
)
from leyden.exact.shares import Shares
from leyden.exact.sums import fix_order_of_sums

if TYPE_CHECKING:
    import lightning as L

T = TypeVar("T")
# Bytes of attributes that start hooks set; larger ones are not in each checkpoint.
MAX_SET_UP = 2**24
LOADER_NOT_RESTORED = (
    "a training loader could not be restored to its position; the epoch would restart"
)


class RunState:
    """Saves, for each process, random states, running means and changed attributes (`Memory`).

    The running means of an interrupted epoch are those of `self.log(on_epoch=True)`, which
    Lightning does not save, and the states of all torchmetrics metrics in the module.

    The network is initialized with the same random numbers in all processes. After that, each
    process draws other numbers, determined by rank and seed, for dropout and augmentation. Rank 0
    draws the same numbers as a single process would.

    Args:
        seed: Seed of the run.
        exact: What to do if something changes that can't be saved: `report`, `require` or `off`,
            see `Reporter`.
        is_fork: Whether the checkpoint may be from a run with another seed. The run then keeps its
            own random states.
    """

    state_key = "RankState"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, seed: int, exact: Mode = "report", *, is_fork: bool = False) -> None:
        self.seed = seed
        self.reporter = Reporter(exact)
        self.is_fork = is_fork
        self.is_restored = False  # true from the first batch on
        self._logged: list[Any] | None = None  # metrics that the interrupted epoch has logged
        self._resumed: dict[str, Any] = {}  # this process's part of the checkpoint
        self._of_ranks: dict[int, dict[str, Any]] = {}  # those of its virtual ranks
        self._common: dict[str, Any] | None = None  # random states outside of their turns
        self._same_seed = True
        self._loaders: list[Any] = []  # states of the dataloaders in the checkpoint
        self._schedules = 0  # their number in the checkpoint
        self._ends_epoch = False  # whether the checkpoint is from the end of an epoch
        self._memory: Memory | None = None
        # What the sanity check has changed, by rank, and its loaders before.
        self._checked: dict[int, dict[str, Any]] = {}
        self._validated: Memory | None = None
        self.made: dict[
            StatePath, str
        ] = {}  # digests of the module's attributes before the start hooks
        self._set_up: Tensor | None = None  # attributes of the module that start hooks have set
        self.late: list[str] = []  # what the module's own `on_train_end` has changed
        self._accumulate = 1
        self._requires_grad: dict[str, bool] = {}  # by parameter name, at the start
        self._loaded: dict[str, Tensor] = {}  # weights of the checkpoint, while start hooks run

    def digests(self, module: L.LightningModule) -> dict[StatePath, str]:
        """Return the digests of a module's attributes."""
        return self._guarded("module", lambda: _of_module(module).digests, {})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store trainer and module; seed each rank above 0 differently."""
        self._trainer: L.Trainer = trainer
        self._module = pl_module
        if stage != "fit":
            return
        rank = trainer.global_rank
        if lightning.virtual_ranks(trainer):  # which the strategy seeds
            rank = 0
            trainer.strategy.reporter = self.reporter  # type: ignore[attr-defined]
        seed_rank(rank)
        seed_entropy(self.seed, f"training of rank {rank}")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a batch that is None."""
        if batch is None:
            lightning.count_skipped_batch(trainer)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states of the dataloaders, and the number of schedules."""
        self._schedules = len(checkpoint.get("lr_schedulers", []))
        loops = checkpoint["loops"]["fit_loop"]
        self._loaders = loops["state_dict"].get("combined_loader", [])
        self._ends_epoch = loops["epoch_loop.batch_progress"]["is_last_batch"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore this process's metrics; keep the rest of its state until start hooks have run."""
        trainer = self._trainer
        every = state_dict["processes"]
        kinds = [state_dict.get("kind", "processes"), lightning.kind_of_ranks(trainer)]
        check_number(len(every), lightning.num_ranks(trainer), *kinds)
        ranks = own_ranks(trainer)
        self._of_ranks = {rank: every[rank] for rank in ranks}
        self._common = state_dict.get("common")
        threads = state_dict.get("threads", torch.get_num_threads())
        if threads != torch.get_num_threads():
            self.reporter.announce(
                f"trained with OMP_NUM_THREADS={threads}, and this start has "
                f"{torch.get_num_threads()}: sums may be rounded otherwise"
            )
        self._same_seed = state_dict["seed"] == self.seed
        if not self.is_fork:
            check_same_seed(state_dict["seed"], self.seed)
        self._resumed = every[ranks[0]]
        self._restore_metrics(self._resumed["metrics"])
        if not self.is_fork:
            self._loaded = self._guarded("weights", self._loaded_weights, {})
        if trainer.strategy.restore_checkpoint_after_setup:  # then this was called before
            self.on_fit_start(trainer, self._module)

    def _loaded_weights(self) -> dict[str, Tensor]:
        """Return copies of the weights and buffers that Lightning has just loaded.

        Those of a sharded module are not held twice. Buffers that are in no `state_dict` are not
        loaded: what start hooks set there is meant.
        """
        if self._trainer.strategy.restore_checkpoint_after_setup:
            return {}
        named: dict[str, Tensor] = dict(self._module.named_parameters())
        saved = self._module.state_dict().keys()
        for name, each in self._module.named_buffers():
            if name in saved:
                named[name] = each
        return {name: each.detach().to("cpu", copy=True) for name, each in named.items()}

    def _restore_metrics(self, kept: dict[str, Any]) -> None:
        for name, metric in metrics_of(self._module):
            if name not in kept:
                continue
            try:
                lightning.restore_metric(metric, kept[name])
            except Exception as error:
                self.reporter.name([f"module.{name} ({reason(error)})"], NOT_RESTORED)

    def _each(self, call: Callable[[int], T]) -> list[T]:
        """Call a function in the turn of each virtual rank of this process, or once."""
        ranks = lightning.ranks_of(self._trainer)
        if ranks:
            return list(ranks.run(call).values())
        return [call(self._trainer.global_rank)]

    def on_fit_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Make Lightning create the dataloaders after it has the checkpoint."""
        if self._resumed:
            lightning.recreate_loaders(trainer)
            if self._ends_epoch:
                lightning.resume_by_epochs(trainer)

    def check(self, run: Callable[[], None]) -> None:
        """Run the sanity check, and keep what it changes, which a resumed start restores instead.

        It draws for itself, also in virtual ranks; the entropy for NumPy's generators is used up.
        """
        if self._resumed:
            self._checked = {rank: each["checked"] for rank, each in self._of_ranks.items()}
            self._split_attributes(self._checked)
            self._each(self._restore_checked)
            return
        if not self._trainer.num_sanity_val_steps:
            run()
            return
        before = self._guarded("module", self._look_around, None)
        trained = self._trained()
        ranks = own_ranks(self._trainer)
        drawn = self._each(lambda rank: random_states())
        states = dict(zip(ranks, drawn, strict=True))
        run()

        def after(rank: int) -> dict[str, Any]:
            memory = None
            if before:
                memory = self._guarded("attributes", before.changes, None)
            now = {name: each for name, each in self._trained().items() if trained[name] != each}
            entropy = random_states()["entropy"]
            restore_random_states({**states[rank], "entropy": entropy})
            return {"memory": memory, "requires_grad": now, "entropy": entropy}

        self._checked = dict(zip(ranks, self._each(after), strict=True))
        if before:
            self._report_of([before])

    def _restore_checked(self, rank: int) -> None:
        """Restore what the sanity check has changed in a virtual rank or a process."""
        kept = self._checked[rank]
        if not kept:
            return
        here = self._look_around()
        if kept["memory"] is not None:
            here.restore(kept["memory"], with_generators=self._same_seed)
        self._report_of([here])
        self._train_as(kept["requires_grad"])
        if self._same_seed:
            restore_random_states({**random_states(), "entropy": kept["entropy"]})

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the loaders of the sanity check, whose data may be those of training, too."""
        if not trainer.sanity_checking:
            return
        parts: dict[str, Any] = {}
        for number, loader in enumerate(flatten_loaders(trainer.val_dataloaders)):
            for name in LOADER_PARTS:
                parts[f"{name} {number}"] = getattr(loader, name, None)

        def known() -> list[Any]:
            data = getattr(trainer, "datamodule", None)
            return [data, *pl_module.modules(), *saved_elsewhere(trainer, pl_module)]

        roots = {"val_dataloaders": types.SimpleNamespace(**parts)}
        self._validated = self._guarded("val_dataloaders", lambda: Memory(roots, known), None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the logged results, which Lightning has just cleared.

        The rest is restored after the last start hook.
        """
        if self._resumed:

            def restore(rank: int) -> list[Any]:
                kept = self._of_ranks[rank]["logged"]
                return lightning.restore_logged(trainer, pl_module, kept)

            self._logged = self._each(restore)[0]
        fix_order_of_sums(trainer.strategy.model, self.reporter)
        strategy = trainer.strategy
        original = strategy.on_train_start

        def on_train_start() -> None:  # the last hook before the first batch is trained on
            del strategy.on_train_start
            original()
            self._look(trainer, pl_module)
            if self._resumed:
                self._restore(trainer, pl_module)
            self.is_restored = True

        strategy.on_train_start = on_train_start  # type: ignore[method-assign]

    def _look(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look at everything before training."""
        loaders = flatten_loaders(trainer.train_dataloader)
        roots = self._roots(trainer, module)
        of_loaders = []
        for number, loader in enumerate(loaders):
            if not isinstance(loader, DataLoader) and not has_state_dict(type(loader)):
                roots[f"train_dataloaders[{number}]"] = loader
            of_loaders += [getattr(loader, name, None) for name in LOADER_PARTS]

        def known() -> list[Any]:
            return [*saved_elsewhere(trainer, module), *of_loaders]

        self._memory = Memory(roots, known)
        if self._validated:
            self._guarded("val_dataloaders", lambda: self._count_validated(loaders), None)
            self._validated = None
        self._report()
        self._guarded("module", lambda: self._look_at_module(module), None)
        self._requires_grad = self._trained()
        self._accumulate = trainer.accumulate_grad_batches

    def _roots(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
        """Return the objects that are looked at, besides loaders, by name."""
        data: Any = getattr(trainer, "datamodule", None)
        for each in (module, data):
            _ = getattr(each, "hparams", None)  # Lightning creates it at the first access
        roots = {"module": module, **foreign_callbacks(trainer)}
        if data is not None:
            roots["data"] = data
        return roots

    def _look_around(self) -> Memory:
        """Look at the objects of `_roots`."""
        known = functools.partial(saved_elsewhere, self._trainer, self._module)
        return Memory(self._roots(self._trainer, self._module), known)

    def _count_validated(self, loaders: list[Any]) -> None:
        """Let data that loaders share count from before the sanity check."""
        assert self._validated
        changed = self._validated.changed()
        for loader in loaders:
            if hasattr(loader, "memories"):
                for each in loader.memories().values():
                    each.count_from(changed)

    def _trained(self) -> dict[str, bool]:
        """Return which weights are trained, by name."""
        return {name: each.requires_grad for name, each in self._module.named_parameters()}

    def _train_as(self, trained: dict[str, bool]) -> None:
        for name, each in self._module.named_parameters():
            if name in trained:
                each.requires_grad_(trained[name])

    def _look_at_module(self, module: L.LightningModule) -> None:
        """Keep the module's attributes that start hooks have set, which evaluation needs."""
        here = _of_module(module)
        set_up = {path for path, each in here.digests.items() if self.made.get(path) != each}
        self._set_up = here.values(set_up)
        if self._set_up.nbytes > MAX_SET_UP:
            self._set_up = None
            say(
                "attributes that the module sets before training have over "
                f"{MAX_SET_UP >> 20} MiB, and are not in the checkpoint: "
                "evaluate, predict and export have only what setup sets for their stage"
            )

    def _report(self) -> None:
        """Report what can't be looked at, kept or restored, of all that is looked at."""
        loaders = flatten_loaders(self._trainer.train_dataloader)
        memories: list[Memory] = []
        if self._memory:
            memories.append(self._memory)
        for loader in loaders:
            if hasattr(loader, "memories"):
                memories += loader.memories().values()
        self._report_of(memories)

    def _report_of(self, memories: list[Memory]) -> None:
        for each in memories:
            while each.problems:
                what, names = each.problems.popitem()
                self.reporter.name(names, what)

    def _restore(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Restore the checkpoint's state, after the last start hook."""
        loaders = flatten_loaders(trainer.train_dataloader)
        stateful = [loader for loader in loaders if hasattr(loader, "state_dict")]
        if len(stateful) != len(self._loaders):
            raise ExactError(LOADER_NOT_RESTORED)
        # Otherwise Lightning starts a new epoch, with new loaders.
        is_within_epoch = trainer.fit_loop.restarting
        if is_within_epoch:
            self._check_schedules(trainer)
            lightning.show_epoch(trainer, module)
        else:
            lightning.forget_iterators(trainer)
        self._restore_memory()
        if lightning.virtual_ranks(trainer):
            self._split_attributes(self._of_ranks)
            self._each(self._restore_rank)
        for loader, state in zip(stateful, self._loaders, strict=True):
            self._restore_loader(loader, state, is_within_epoch=is_within_epoch)
        self._report()
        lightning.omit_validation(trainer)
        self._train_as(self._resumed["requires_grad"])
        gradients = self._resumed["gradients"]
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        self._guarded("weights", self._undo_start_hooks, None)
        self._guarded("weights", self._restore_weights, None)
        self._guarded("optimizers", self._restore_steppers, None)
        accumulate = self._resumed["accumulate"]
        if accumulate:
            trainer.accumulate_grad_batches = accumulate
        if not self._same_seed:
            return
        self._each(lambda rank: restore_random_states(self._of_ranks[rank]))
        if self._common:
            restore_random_states(self._common)

    def _split_attributes(self, states: dict[int, dict[str, Any]]) -> None:
        """Give each virtual rank a copy of the attributes that these states have."""
        if not lightning.virtual_ranks(self._trainer):
            return
        changed: set[StatePath] = set()
        for each in states.values():
            if each and each["memory"] is not None:
                changed |= {*thaw(each["memory"])}
        self._trainer.strategy.split_attributes(changed)  # type: ignore[attr-defined]

    def _restore_rank(self, rank: int) -> None:
        """Restore what a virtual rank has of its own."""
        self._restore_metrics(self._of_ranks[rank]["metrics"])
        self._restore_memory()

    def _check_schedules(self, trainer: L.Trainer) -> None:
        """Announce schedules that a start within an epoch does not have, or has besides."""
        number = len(trainer.lr_scheduler_configs)
        if number == self._schedules:
            return
        self.reporter.announce(
            f"the checkpoint has {self._schedules} schedules, and this start {number}: a callback "
            "changes them in `on_train_epoch_start`, which Lightning does not call within an epoch"
        )

    def _restore_loader(self, loader: Any, state: Any, *, is_within_epoch: bool) -> None:
        """Check the position of a training loader, and restore what it needs to go on.

        Raises:
            ExactError: It is at another position.
        """
        if isinstance(loader, Shares) and "processes" in state:
            for rank, part in loader.loaders.items():
                of_rank = [state["processes"][rank]]
                self._restore_loader(part, {"processes": of_rank}, is_within_epoch=is_within_epoch)
            return
        if not hasattr(loader, "replaying"):  # a loader with a state of its own
            has_position = is_within_epoch and "position" in state
            if has_position and loader.state_dict()["position"] != state["position"]:
                raise ExactError(LOADER_NOT_RESTORED)
            return
        loader.replaying = self._replaying
        every = state["processes"]
        mine = every[0] if len(every) == 1 else of_this_process(state)
        if not is_within_epoch:
            loader.restore_memory(mine["memory"])
        elif loader.position != mine["position"]:
            raise ExactError(LOADER_NOT_RESTORED)

    def _restore_memory(self) -> None:
        """Restore the attributes that the checkpoint has, in a turn those of the virtual rank."""
        ranks = lightning.ranks_of(self._trainer)
        mine = self._resumed
        if ranks and ranks.current is not None:
            mine = self._of_ranks[ranks.current]
        kept = mine["memory"]
        if self._memory and kept is not None:
            self._memory.restore(kept, with_generators=self._same_seed)

    @contextlib.contextmanager
    def _replaying(self) -> Iterator[None]:
        """Context of a replay, at whose end changes that it has made to objects are undone."""
        yield
        self._restore_memory()
        self._report()

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Discard the restored results; Lightning does not call this hook in a resumed epoch."""
        logged = self._logged
        if logged is not None:
            self._each(lambda rank: lightning.discard_logged(trainer, logged))
            self._logged = None

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Forget the logged results of the resumed epoch; let it end like an uninterrupted one."""
        self._logged = None
        lightning.complete_last_batch(trainer)
        lightning.step_schedules_again(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all processes, as tensors and plain values, with the seed."""
        mine = self._each(self._own_state)
        processes: list[Any] = []
        for each in gather_from_processes(mine):
            processes += each
        self._report()
        state = {"processes": processes, "seed": self.seed}
        if lightning.virtual_ranks(self._trainer):
            state["kind"] = lightning.kind_of_ranks(self._trainer)
            state["common"] = random_states()
            state["threads"] = torch.get_num_threads()
            self._trainer.strategy.check_weights()  # type: ignore[attr-defined]
        return state

    def _own_state(self, rank: int) -> dict[str, Any]:
        """Return the state of this process, or of a virtual rank in its turn."""
        trainer = self._trainer
        memory = None
        if self._memory:
            memory = self._guarded("attributes", self._memory.changes, None)
        metrics = self._metric_states()
        nothing: dict[str, Any] = {"values": {}, "metrics": []}
        logged = functools.partial(lightning.logged_state, trainer)
        accumulate = None
        has_changed = trainer.accumulate_grad_batches != self._accumulate
        if has_changed or self._resumed.get("accumulate"):
            accumulate = trainer.accumulate_grad_batches
        return {
            **random_states(),
            "metrics": metrics,
            "logged": self._guarded("logged values", logged, nothing),
            "memory": memory,
            "set_up": self._set_up,
            "requires_grad": self._changed_requires_grad(),
            "gradients": self._gradients(),
            "buffers": self._own_weights(),
            "steppers": self._own_steppers(),
            "accumulate": accumulate,
            "checked": self._checked.get(rank),
        }

    def _metric_states(self) -> dict[str, Any]:
        """Return the states of the module's metrics, by name."""
        found: dict[str, Any] = {}
        for name, metric in metrics_of(self._module):
            look = functools.partial(lightning.metric_state, metric)
            state = self._guarded(f"module.{name}", look, None)
            if state is not None:
                found[name] = state
        return found

    def _changed_requires_grad(self) -> dict[str, bool]:
        """Return which parameters are trained, of those for which that has changed, also before."""
        changed = self._resumed.get("requires_grad", {})
        found: dict[str, bool] = {}
        for name, is_trained in self._trained().items():
            if name in changed or is_trained != self._requires_grad.get(name, True):
                found[name] = is_trained
        return found

    def _gradients(self) -> dict[str, Tensor]:
        """Return the gradients of a module with manual optimization; none of any other.

        Such a module can accumulate the gradients of one optimizer over several batches, while
        another one steps in each batch; then no step leaves all gradients empty. With Lightning's
        own accumulation, checkpoints are written only after an optimizer step, when no gradients
        are accumulated.
        """
        if self._module.automatic_optimization:
            return {}
        found: dict[str, Tensor] = {}
        for name, each in self._module.named_parameters():
            if each.grad is not None:
                found[name] = each.grad.detach().cpu()
        return found

    def _undo_start_hooks(self) -> None:
        """Restore the weights and buffers that start hooks have set, as in the first start."""
        loaded = self._loaded
        self._loaded = {}
        for name, each in [*self._module.named_parameters(), *self._module.named_buffers()]:
            if name in loaded and loaded[name].shape == each.shape:
                each.detach().copy_(loaded[name])

    def _own_weights(self) -> dict[str, Tensor]:
        """Return the weights and buffers by which this process differs from the one of rank zero.

        Such are running statistics, and weights that each process steps by a rate of its own.
        Lightning saves those of rank zero. Buffers that DDP shares before the next batch are lost
        anyway: it does not with `broadcast_buffers=False`, nor, mostly, with manual optimization.
        """
        model = self._trainer.strategy.model
        if not isinstance(model, DistributedDataParallel):
            return {}
        named: dict[str, Tensor] = dict(self._module.named_parameters())
        if not model.will_sync_module_buffers():  # type: ignore[no-untyped-call]
            named.update(self._module.named_buffers())
        found = apart_from_first({name: each.detach() for name, each in named.items()})
        return {name: each.cpu() for name, each in found.items()}

    def _restore_weights(self) -> None:
        """Restore this process's own weights, and buffers, which DDP would overwrite."""
        model = self._trainer.strategy.model
        kept: dict[str, Tensor] = self._resumed["buffers"]
        buffers = dict(self._module.named_buffers())
        if isinstance(model, DistributedDataParallel):
            has_any = any(gather_from_processes(not kept.keys().isdisjoint(buffers)))
            if has_any:
                model.require_forward_param_sync = False
        for name, each in [*self._module.named_parameters(), *buffers.items()]:
            if name in kept:
                each.detach().copy_(kept[name])

    def _steppers(self) -> dict[str, Any]:
        """Return the optimizers and schedules by name; none of sharded ones."""
        found: dict[str, Any] = {}
        if isinstance(self._trainer.strategy.model, DistributedDataParallel):
            for number, optimizer in enumerate(self._trainer.optimizers):
                if not hasattr(optimizer, "consolidate_state_dict"):
                    found[f"optimizer {number}"] = optimizer
            for number, config in enumerate(self._trainer.lr_scheduler_configs):
                found[f"schedule {number}"] = config.scheduler
        return found

    def _own_steppers(self) -> dict[str, Any]:
        """Return the states of those by which this process differs from the one of rank zero.

        They follow a metric of each process.
        """
        return apart_from_first({key: each.state_dict() for key, each in self._steppers().items()})

    def _restore_steppers(self) -> None:
        """Restore this process's own optimizers and schedules."""
        kept = self._resumed["steppers"]
        for key, each in self._steppers().items():
            if key in kept:
                each.load_state_dict(kept[key])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the module before and after its own hook, which no checkpoint follows."""
        if not is_overridden("on_train_end", pl_module):
            return
        original = pl_module.on_train_end

        def on_train_end() -> None:
            del pl_module.on_train_end
            before = self._with_weights(pl_module)
            original()
            after = self._with_weights(pl_module)
            changed = [path for path, each in after.items() if before.get(path) != each]
            self.late = sorted(map(path_name, changed))

        pl_module.on_train_end = on_train_end  # type: ignore[method-assign]

    def _with_weights(self, module: L.LightningModule) -> dict[StatePath, str]:
        """Return the digests of a module's attributes and weights."""
        return self._guarded("module", lambda: Memory({"module": module}).digests, {})

    def _guarded(self, name: str, look: Callable[[], Any], default: T) -> T:
        """Return what a function finds in other people's objects; an error is announced."""
        try:
            found: T = look()
            return found
        except Exception as error:
            self.reporter.name([f"{name} ({reason(error)})"], NOT_SEEN)
            return default


def own_ranks(trainer: L.Trainer) -> range:
    """Return the parts of a checkpoint that are this process's."""
    rank = trainer.global_rank
    found: range = getattr(trainer.strategy, "own_ranks", range(rank, rank + 1))
    return found


def prepare_to_load(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Make Lightning load a checkpoint's states as they are.

    It converts the module after it has loaded weights, which would round those of 64 bits. Where
    the module's hook asks for an object that was left out, this start's own takes its place.
    """
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, of_trees("callbacks.SpikeDetection")):
            # Its `load_state_dict` names it so.
            each.running = each.running_mean  # type: ignore[attr-defined]
    strategy = trainer.strategy
    vars(strategy).pop("load_model_state_dict", None)  # of a start that failed before
    load = strategy.load_model_state_dict

    def converted(*args: Any, **kwargs: Any) -> None:
        trainer.precision_plugin.convert_module(module)
        load(*args, **kwargs)

    strategy.load_model_state_dict = converted  # type: ignore[method-assign]
    if not is_overridden("on_load_checkpoint", module):
        return
    hook = module.on_load_checkpoint

    def completed(checkpoint: dict[str, Any]) -> None:
        del module.on_load_checkpoint
        try:
            hook(checkpoint)
        except KeyError:
            own = content_of_hooks(trainer)
            left_out = own.keys() - checkpoint.keys()
            if not left_out:
                raise
            checkpoint.update({key: own[key] for key in left_out})
            hook(checkpoint)

    module.on_load_checkpoint = completed  # type: ignore[method-assign]


def restore_module(module: L.LightningModule, content: dict[str, Any]) -> None:
    """Restore a module's attributes at a checkpoint, besides its weights.

    The checkpoint contains the attributes that changed in training, and those that start hooks set.

    Raises:
        ValueError: The module has no such attributes.
    """
    first = content["callbacks"][RunState.state_key]["processes"][0]
    here = _of_module(module)
    for name in ("set_up", "memory"):
        kept = first[name]
        if kept is not None:
            here.restore(kept, only_own=True)
    lost = here.problems[NOT_RESTORED]
    if lost:
        raise ValueError(f"{lost[0]} {NOT_RESTORED}")


def _of_module(module: L.LightningModule) -> Memory:
    """Return the memory of a module alone, without its weights and metrics."""
    _ = module.hparams  # Lightning creates it at the first access
    return Memory({"module": module}, lambda: weights_and_metrics(module))
