"""Training that resumes to the same bits: what a block takes, and callbacks around a trainer's."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from leyden.exact import ExactError, lightning
from leyden.exact.checkpoint import SafeCheckpointIO, check_every_n_steps, last_of, make_folders
from leyden.exact.hooks import as_data_module, make_resumable, seed_stages
from leyden.exact.last import LastCheckpoint
from leyden.exact.lightning import of_trees, tree_of
from leyden.exact.marks import every_n_steps_of
from leyden.exact.memory import PLAIN_NAMES, Mode, check_exact, is_rank_zero, say
from leyden.exact.processes import REFUSED, TOLD_S, LostError, Peers, only_training
from leyden.exact.random_state import check_seed, seed_everything
from leyden.exact.signals import leave_process
from leyden.exact.stages import Stages
from leyden.exact.state import RunState, prepare_to_load
from leyden.exact.stop import Steps, Stop

if TYPE_CHECKING:
    import lightning as L

    _Callback = L.Callback
else:
    _Callback = object

Fit = Callable[..., None]  # a trainer's own `fit`


class Exact(_Callback):
    """Makes a training resume to the same bits, for any LightningModule, whoever makes its Trainer.

    In the folder it writes `checkpoints/last.ckpt`, at the end of each epoch and every
    `every_n_steps`, and when SIGTERM, SIGUSR1 or Ctrl-C ends the process. The trainer's other
    callbacks, loggers and checkpoints stay as they are.

    Create it before the module, since it seeds all random numbers. As a context, it takes the first
    `Trainer.fit` that is called inside, of `lightning.pytorch` or `pytorch_lightning`:

        with Exact("runs/a", seed=0, every_n_steps=500):
            model.fit(series)

    Args:
        directory: Folder of the run.
        seed: Seed of all random numbers.
        every_n_steps: Optimizer steps between checkpoints within an epoch; None for none.
        exact: What to do if something can't be kept, or a resumed step parts from that of the
            stopped run: `report` it in a line, `require` (an error), or `off`.
        each: Whether a context takes each `Trainer.fit`, in folders `fit_1`, `fit_2`, ….

    The page on exact training has an example.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Exact:
        """Create a callback of each imported tree, since a trainer takes no other object."""
        kind: Any = lightning.derived(cls, *of_trees("Callback"))  # type: ignore[arg-type]
        return object.__new__(kind)  # type: ignore[no-any-return]

    def __init__(
        self,
        directory: str | Path,
        *,
        seed: int = 0,
        every_n_steps: int | None = None,
        exact: Mode = "report",
        each: bool = False,
    ) -> None:
        check_seed(seed)
        check_exact(exact)
        check_every_n_steps(every_n_steps)
        self.directory = Path(directory).absolute()
        self.seed = seed
        self.every_n_steps = every_n_steps_of(every_n_steps)
        self.exact = exact
        self.each = each
        self._num_fits = 0  # of the open context
        seed_everything(seed, "module")

    def __enter__(self) -> Exact:
        self._num_fits = 0
        _blocks.open(self)
        return self

    def __exit__(self, *args: object) -> None:
        _blocks.close(self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report a training that nothing of this object has taken."""
        if not _blocks.is_taken(trainer):
            say(
                "this run can't resume: write `with exact: trainer.fit(...)`, "
                "as a callback is not enough"
            )

    def fit(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        data: Any = None,
        val_dataloaders: Any = None,
    ) -> None:
        """Train, or resume where the last start stopped.

        Args:
            trainer: The trainer.
            module: The module.
            data: A data module, training loaders, or None if the module has loaders of its own.
            val_dataloaders: Loaders of validation, beside training loaders.

        Raises:
            ExactError: The run can't resume to the same bits, and must not otherwise.
        """
        given = {"model": module, "train_dataloaders": data, "val_dataloaders": val_dataloaders}
        with _blocks.taking(trainer):
            self._train(trainer, trainer.fit, given, self.directory)

    def take(self, trainer: L.Trainer, fit: Fit, given: dict[str, Any]) -> None:
        """Train what `trainer.fit` was called for in the context of this object.

        Args:
            trainer: The trainer.
            fit: Its own `fit`.
            given: The arguments.

        Raises:
            ExactError: See `fit`.
        """
        directory = self.directory
        if lightning.is_search(trainer):  # of a Tuner, before the training
            fit(**given)
            return
        self._num_fits += 1
        if self.each:
            directory /= f"fit_{self._num_fits}"
        elif self._num_fits > 1:
            say(
                f"fit number {self._num_fits} in this block can't resume: "
                "Exact(..., each=True) keeps each in a folder of its own"
            )
            fit(**given)
            return
        self._train(trainer, fit, given, directory)
        if self.each:  # what follows draws the same, whether this fit had ended before or not
            seed_everything(self.seed, f"after {directory.name}")

    def _train(self, trainer: L.Trainer, fit: Fit, given: dict[str, Any], directory: Path) -> None:
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        check_trainer(trainer)
        try:
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                say("fast_dev_run: nothing is kept")
                fit(**given)
                return
            make_folders(directory)
            with contextlib.ExitStack() as held:
                if is_rank_zero():
                    held.enter_context(only_training(directory, say))
                self._train_in(directory, trainer, fit, given)
        except LostError as error:
            say(f"{error}; the same command resumes")
            leave_process(error.code, error)
        except ExactError as error:
            if trainer.world_size == 1:
                raise
            _end_all(error)
        finally:
            trainer.callbacks = callbacks  # type: ignore[attr-defined]

    def _train_in(
        self, directory: Path, trainer: L.Trainer, fit: Fit, given: dict[str, Any]
    ) -> None:
        module = lightning.uncompiled(given["model"])
        data = given.pop("datamodule", None)
        if data is None:
            data = given.pop("train_dataloaders", None)
        data = as_data_module(module, data, given.pop("val_dataloaders", None))
        kind = lightning.derived(LastCheckpoint, *of_trees("callbacks.Checkpoint"))
        checkpoint = kind(self.every_n_steps, directory)
        parts = Parts(self.seed, checkpoint, directory, None, self.exact)
        checkpoint.files = SafeCheckpointIO(parts.state.reporter)
        last = last_of(directory)
        data.trainer = trainer
        seed_stages(data, self.seed)
        make_resumable(data, self.seed)
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        callbacks = [*parts.around(callbacks), checkpoint]
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        given["datamodule"] = data
        if last:
            parts.steps.resumes_from = last
            given |= {"ckpt_path": last, "weights_only": True}
        with (
            torch.serialization.safe_globals(PLAIN_NAMES),
            parts.watching(trainer, module, given.get("ckpt_path")),
        ):
            fit(**given)
        if last and not parts.state.is_restored:
            _end_again(trainer, module)


def _end_again(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Leave the module as a training has that had ended before, and report it."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        is_average = isinstance(callback, of_trees("callbacks.WeightAveraging"))
        if is_average:
            callback.on_train_end(trainer, module)  # the average takes the place of the weights
    say(
        "this training had ended before: the module has its last weights, but not what training "
        "changed besides"
    )


class _Blocks:
    """The open contexts. While there is any, each tree's `Trainer.fit` asks the innermost one.

    It also finds the module of a tree's trainer that is imported meanwhile (`sys.meta_path`).
    """

    def __init__(self) -> None:
        self._open: list[Exact] = []
        self._patched: dict[Any, tuple[Fit, Fit]] = {}  # the method before, and this one, by class
        self._taken: list[int] = []  # ids of trainers that are in their `fit`
        self._lock = threading.RLock()

    def open(self, block: Exact) -> None:
        """Begin a context."""
        with self._lock:
            if not self._open:
                for tree in lightning.imported_trees():
                    self._patch(tree.Trainer)
                sys.meta_path.insert(0, self)
            self._open.append(block)

    def close(self, block: Exact) -> None:
        """End a context; the last one leaves each class as it was before the first."""
        with self._lock:
            from_last = self._open[::-1].index(block)
            del self._open[-1 - from_last]
            if self._open:
                return
            sys.meta_path.remove(self)
            while self._patched:
                kind, (before, mine) = self._patched.popitem()
                if vars(kind)["fit"] is mine:  # else somebody has wrapped it meanwhile
                    kind.fit = before

    def is_taken(self, trainer: L.Trainer) -> bool:
        """Return whether a trainer's `fit` was taken, and has not returned."""
        return id(trainer) in self._taken

    @contextlib.contextmanager
    def taking(self, trainer: L.Trainer) -> Iterator[None]:
        """Context in which a trainer's own `fit` is called."""
        self._taken.append(id(trainer))
        try:
            yield
        finally:
            self._taken.remove(id(trainer))

    def _patch(self, kind: Any) -> None:
        before = kind.fit
        signature = inspect.signature(before)

        @functools.wraps(before)
        def fit(trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            block = self._open[-1] if self._open else None
            if block is None or self.is_taken(trainer):
                before(trainer, *args, **kwargs)
                return
            given = signature.bind(trainer, *args, **kwargs).arguments
            of_trainer, *_ = signature.parameters
            del given[of_trainer]
            with self.taking(trainer):
                block.take(trainer, functools.partial(before, trainer), given)

        self._patched[kind] = (before, fit)
        kind.fit = fit

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find the module of a tree's trainer, which is patched once it was executed."""
        if name not in [f"{tree}.trainer.trainer" for tree in lightning.TREES]:
            return None
        found = PathFinder.find_spec(name, path, target)
        if found is None or found.loader is None:
            return None
        execute = found.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            with self._lock:
                if self._open:
                    self._patch(module.Trainer)

        found.loader.exec_module = exec_module  # type: ignore[method-assign]
        return found


_blocks = _Blocks()


def _end_all(error: ExactError) -> NoReturn:
    """End one of several processes, all of which have found the same, as a rule.

    Then it is one line of rank zero.
    Rank zero, or its launcher, ends the others while they wait.
    """
    if is_rank_zero():
        say(str(error))
    else:
        time.sleep(TOLD_S)
        print(f"leyden: {error}", file=sys.stderr)
    leave_process(REFUSED, error)


def check_trainer(trainer: L.Trainer) -> None:
    """Check that a trainer's checkpoints can be resumed from.

    Raises:
        ExactError: They can't.
    """
    strategy = trainer.strategy
    is_whole = isinstance(
        strategy,
        (*of_trees("strategies.SingleDeviceStrategy"), *of_trees("strategies.DDPStrategy")),
    )
    if not is_whole and not getattr(strategy, "writes_whole_checkpoints", False):
        name = type(strategy).__name__
        raise ExactError(
            f"{name} may shard weights: only one device, DDP or leyden's FSDP2 can be resumed"
        )
    if lightning.pickles(strategy):
        raise ExactError(
            "a strategy that spawns processes pickles the trainer, which can't be resumed: choose "
            'strategy="ddp", whose processes are started by the same command'
        )
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        refusal = refuse_search(each)
        if refusal and not lightning.is_search(trainer):
            raise ExactError(refusal)


def refuse_search(callback: L.Callback) -> str:
    """Return why a callback can't be used that searches in each start; nothing of any other.

    What is searched is a learning rate or a batch size.
    """
    if not isinstance(callback, lightning.searches()):
        return ""
    return (
        f"{type(callback).__name__} trains and goes back before the run begins, by a checkpoint "
        "of its own; find the value once, by lightning.pytorch.tuner.Tuner, and set it"
    )


class Parts:
    """The callbacks of an exact run, for a trainer.

    Args:
        seed: Seed of the run.
        checkpoint: Saves `last.ckpt`; the others are callbacks of its tree, too.
        directory: Folder of the run.
        requeue: See `Stop`.
        exact: See `Exact`.
        is_fork: See `RunState`.
        leave: Ends the process, see `Stop`.
    """

    def __init__(
        self,
        seed: int,
        checkpoint: LastCheckpoint,
        directory: Path,
        requeue: Any,
        exact: Mode,
        *,
        is_fork: bool = False,
        leave: Any = leave_process,
    ) -> None:
        of_tree = functools.partial(_made, tree_of(checkpoint).Callback)
        self.checkpoint = checkpoint
        self.stages: Stages = of_tree(Stages)
        self.state: RunState = of_tree(RunState, seed, exact, is_fork=is_fork)
        self.steps: Steps = of_tree(Steps, directory, self.state.reporter)
        self.stop: Stop = of_tree(Stop, checkpoint, self.steps, requeue, leave)
        self.peers = Peers(say)
        self.before: list[Any] = [self.stages, self.steps]  # others read from the first one
        self.after: list[Any] = [self.state, self.stop]

    def around(self, callbacks: Sequence[L.Callback]) -> list[L.Callback]:
        """Return these callbacks around others."""
        return [*self.before, *callbacks, *self.after]

    def fit(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        data: L.LightningDataModule,
        checkpoint: Path | None,
    ) -> None:
        """Train, from a checkpoint if there is one.

        Raises:
            LostError: Another process has died.
        """
        with self.watching(trainer, module, checkpoint):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    @contextlib.contextmanager
    def watching(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: Any
    ) -> Iterator[None]:
        """Context of a trainer's `fit`, from a checkpoint if there is one.

        Raises:
            LostError: Another process has died.
        """
        self.state.made = self.state.digests(module)
        if checkpoint:
            prepare_to_load(trainer, module)
        saves = self.checkpoint.after_batch, self.checkpoint.after_epoch
        with (
            self.stop.interruptible(trainer),
            self.peers.watched(trainer),
            lightning.after_each(trainer, *saves),
            lightning.in_place_of_check(trainer, self.state.check),
        ):
            yield


def _made(base: type, kind: type, *args: Any, **kwargs: Any) -> Any:
    """Return a callback of a tree."""
    return lightning.derived(kind, base)(*args, **kwargs)
