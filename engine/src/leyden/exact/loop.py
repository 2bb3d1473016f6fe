"""A training loop of one's own that resumes to the same bits, without Lightning."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from leyden.exact import ExactError
from leyden.exact.checkpoint import (
    LAST,
    SafeCheckpointIO,
    check_every_n_steps,
    last_of,
    make_folders,
    read_training,
)
from leyden.exact.digest import is_finite_module
from leyden.exact.loaders import (
    LOADER_PARTS,
    Derived,
    apart_from_first,
    check_number,
    gather_from_processes,
    has_processes,
)
from leyden.exact.marks import every_n_steps_of, mark
from leyden.exact.memory import (
    Memory,
    Mode,
    Reporter,
    check_exact,
    is_own_class,
    is_rank_zero,
    say,
)
from leyden.exact.processes import only_training
from leyden.exact.random_state import (
    check_same_seed,
    check_seed,
    random_states,
    restore_random_states,
    seed_by_text,
)
from leyden.exact.signals import Signals, in_main_thread
from leyden.exact.steps import StepRecord, resume_line
from leyden.exact.sums import fix_order_of_sums


class Loop:
    """Makes a training loop resume to the same bits.

    It writes `checkpoints/last.ckpt` when it begins, at the end of each epoch and every
    `every_n_steps`, and when SIGTERM, SIGUSR1 or Ctrl-C ends the process. Create it when all
    objects are made; in each of several processes, after they have found each other.

        loop = Loop("runs/a", seed=0, model=model, optimizer=optimizer, every_n_steps=500)
        for step, batch in loop.steps(loader, epochs=10):
            loss = train(batch)
            loop.log(step, loss=loss)

    Args:
        directory: Folder of the run.
        seed: Seed of the random numbers of training.
        every_n_steps: Steps between checkpoints within an epoch; None for none.
        log_every_n_steps: Steps between those whose values are kept, to compare at a resume.
        exact: What to do if something can't be kept, or a resumed step parts from that of the
            stopped run: `report` it in a line, `require` (an error), or `off`.
        **objects: Whatever has a `state_dict` and a `load_state_dict`: modules, optimizers, ….

    Raises:
        ExactError: The run can't resume to the same bits, and must not otherwise.

    Attributes:
        step: Number of steps so far.
        epoch: Number of the current epoch, from 0.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        seed: int = 0,
        every_n_steps: int | None = None,
        log_every_n_steps: int = 50,
        exact: Mode = "report",
        **objects: Any,
    ) -> None:
        check_seed(seed)
        check_exact(exact)
        check_every_n_steps(every_n_steps)
        _check_objects(objects)
        self.step = 0
        self.epoch = 0
        self._seed = seed
        self._every_n_steps = every_n_steps_of(every_n_steps)
        self._log_every_n_steps = log_every_n_steps
        self._objects = objects
        self._modules = _modules_of(objects)
        self._optimizers = [each for each in objects.values() if hasattr(each, "param_groups")]
        self._logged: dict[str, Any] = {}
        self._directory = Path(directory).absolute()
        self._reporter = Reporter(exact)
        self._record = StepRecord(self._directory, self._reporter)
        self._files = SafeCheckpointIO(self._reporter)
        self._signals = Signals()
        self._reader = _OfLoop(self)
        self._derived = Derived(self._reader, seed)
        self._loader: Any = None
        self._memory: Memory | None = None
        self._ends_epoch = False  # whether all batches of the epoch were trained on
        self._said: set[str] = set()
        self._rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._held = contextlib.ExitStack()
        make_folders(self._directory)
        if is_rank_zero():
            self._held.enter_context(only_training(self._directory, say))
        for each in objects.values():
            fix_order_of_sums(each, self._reporter)
        self._resumed = self._load()

    def _load(self) -> dict[str, Any]:
        """Give the objects their states in the checkpoint; return this process's other state."""
        last = last_of(self._directory)
        found = gather_from_processes(last)
        if last is None:
            return {}
        content = read_training(last)
        if "objects" not in content:
            raise ExactError(f"{last}: is not of a Loop; choose another folder")
        check_number(len(content["processes"]), len(found))
        check_same_seed(content["seed"], self._seed)
        mine: dict[str, Any] = content["processes"][self._rank]
        states = {**content["objects"], **mine["objects"]}
        if {*states} != {*self._objects}:
            raise ExactError(
                f"{last}: has {', '.join(states)}, and this start {', '.join(self._objects)}; "
                "give the same, or choose another folder"
            )
        for name, state in states.items():
            self._objects[name].load_state_dict(state)
        self.step = content["step"]
        self.epoch = content["epoch"]
        self._ends_epoch = content["ends_epoch"]
        self._record.load_state_dict({"batch": self.step})
        say(resume_line(last, self.step, self.epoch + self._ends_epoch))
        return {**mine, "loader": content["loader"]}

    def steps(self, loader: Any, *, epochs: int) -> Iterator[tuple[int, Any]]:
        """Yield the number of each step, from 1, and its batch, from where the last start stopped.

        What follows in the body of the loop is the step: it ends when the next one is asked for.
        For a validation after each epoch, call it once for each:

            while loop.epoch < 10:
                for step, batch in loop.steps(loader, epochs=loop.epoch + 1):
                    ...
                validate(model)

        Args:
            loader: A `DataLoader`, or another iterable that yields the batches of an epoch.
            epochs: The number of epochs in all, those of earlier starts and calls included.

        Raises:
            SystemExit: A signal has ended the training, and everything is saved.
        """
        with self._interruptible():
            self._begin(loader)
            if self._ends_epoch:
                self._begin_epoch()
            if self.epoch >= epochs and self._resumed:
                say(f"{epochs} epochs were trained before: nothing is left to train of them")
            self._resumed = {}
            while self.epoch < epochs:
                for each in (loader, getattr(loader, "sampler", None)):
                    set_epoch = getattr(each, "set_epoch", None)
                    if set_epoch:
                        set_epoch(self.epoch)
                for batch in loader:
                    self.step += 1
                    yield self.step, batch
                    self._end_step(batch)
                self._ends_epoch = True
                self._save()
                self._begin_epoch()
            self._signals.finish()

    def log(self, step: int, **values: Any) -> None:
        """Give values of a step, such as its loss, to compare them after a resume."""
        self._logged.update(values)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Context in which signals are received; at its end they are handled as before."""
        before: dict[int, Any] = {}
        if in_main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM))
            before = {number: signal.getsignal(number) for number in numbers}
            if before[signal.SIGINT] != signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._signals.receive)
        self._signals.catch()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin(self, loader: Any) -> None:
        """Look at what could change, and restore it; save, when the training begins."""
        self._loader = self._derived.derive(loader, "steps", are_training=True)
        if self._memory is not None:
            return
        if not self._resumed:
            seed_by_text(f"{self._seed} loop {self._rank}")
            torch.manual_seed(torch.initial_seed())  # those of GPUs, too
        roots: dict[str, Any] = dict(self._modules)
        for name, each in self._objects.items():
            if name not in roots and is_own_class(type(each)):
                roots[name] = each
        if not isinstance(loader, DataLoader) and not hasattr(loader, "state_dict"):
            roots["loader"] = loader
        self._memory = Memory(roots, self._known)
        self._record.begin()
        if self._resumed:
            self._restore(self._resumed)
        else:
            self._save(begins=True)
        self._report()

    def _known(self) -> list[Any]:
        parts = [getattr(self._loader, name, None) for name in LOADER_PARTS]
        return [*self._reader.saved(), *parts]

    def _restore(self, mine: dict[str, Any]) -> None:
        assert self._memory is not None
        self._memory.restore(mine["memory"])
        for name, module in self._modules.items():
            for place, each in module.named_parameters(prefix=name):
                each.requires_grad_(place not in mine["frozen"])
                if place in mine["gradients"]:
                    each.grad = mine["gradients"][place].to(each.device)
        state = mine["loader"]
        if state is not None and not self._ends_epoch:
            if not hasattr(self._loader, "memories"):
                state = state["processes"][self._rank]
            self._loader.load_state_dict(state)
        elif state is not None and hasattr(self._loader, "memories"):
            self._loader.restore_memory(state["processes"][self._rank]["memory"])
        restore_random_states(mine)

    def _begin_epoch(self) -> None:
        self.epoch += 1
        self._ends_epoch = False

    def _end_step(self, batch: Any) -> None:
        """End a step: record and compare it, mark it, and save if a checkpoint is due."""
        record = self._record
        record.batch = self.step
        if record.is_due(self._log_every_n_steps):
            record.end(self._logged, self._optimizers, self._modules.values())
        self._logged = {}
        mark(self.step, self._modules, self._optimizers, batch)
        if record.is_last:
            self._signals.obey()
        if self._signals.agree():
            record.is_last = self._save()
            if not record.is_last:  # the last checkpoint stays
                self._signals.obey()
        elif self._every_n_steps and self.step % self._every_n_steps == 0:
            self._save()

    def _save(self, *, begins: bool = False) -> bool:
        """Save, and return whether it could be done."""
        loader = self._loader
        has_position = hasattr(loader, "state_dict")
        if not (has_position or begins or self._ends_epoch):
            self._say_once(
                "these data can't resume within an epoch: the run will resume from its start"
            )
            return False
        is_finite = all(is_finite_module(each) for each in self._modules.values())
        if not all(gather_from_processes(is_finite)):
            self._say_once("weights are not finite: the last checkpoint with finite ones is kept")
            return False
        position = None
        if hasattr(loader, "memories"):
            position = loader.state_dict()
        elif has_position:
            position = {"processes": gather_from_processes(loader.state_dict())}
        states = {name: each.state_dict() for name, each in self._objects.items()}
        content = {
            "objects": states,
            "processes": gather_from_processes(self._of_process(states)),
            "loader": position,
            "seed": self._seed,
            "step": self.step,
            "epoch": self.epoch,
            "ends_epoch": self._ends_epoch,
        }
        self._report()
        if is_rank_zero():
            self._files.save_checkpoint(content, self._directory / "checkpoints" / LAST)
        self._record.saved()
        return True

    def _of_process(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return the state of this process alone."""
        assert self._memory is not None
        parameters: dict[str, nn.Parameter] = {}
        for name, module in self._modules.items():
            parameters.update(module.named_parameters(prefix=name))
        return {
            **random_states(),
            "memory": self._memory.changes(),
            "objects": apart_from_first(states),
            "frozen": [name for name, each in parameters.items() if not each.requires_grad],
            "gradients": {
                name: each.grad.cpu() for name, each in parameters.items() if each.grad is not None
            },
        }

    def _report(self) -> None:
        """Report what can't be looked at, kept or restored."""
        memories = [self._memory]
        if hasattr(self._loader, "memories"):
            memories += self._loader.memories().values()
        for each in memories:
            while each and each.problems:
                what, names = each.problems.popitem()
                self._reporter.name(names, what)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)


class _OfLoop:
    """A loop as the reader of its loader, see `Reader`."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def epoch(self) -> int:
        return self._loop.epoch

    def num_batches(self) -> int:
        return self._loop.step

    def prefetches(self) -> bool:
        return False

    def shares(self) -> bool:
        return has_processes()

    def saved(self) -> list[Any]:
        found = [self._loop, *self._loop._objects.values()]
        for module in self._loop._modules.values():
            found += [*module.modules(), *module.parameters(), *module.buffers()]
        return found


def _check_objects(objects: dict[str, Any]) -> None:
    """Check the objects of a loop.

    Raises:
        ValueError: One has no state.
        ExactError: One can't be kept whole, or the processes have not found each other.
    """
    for name, each in objects.items():
        if not (hasattr(each, "state_dict") and hasattr(each, "load_state_dict")):
            kind = type(each).__name__
            raise ValueError(f"{name}: a {kind} has no state_dict and load_state_dict; add them")
        if isinstance(each, nn.Module) and any(hasattr(it, "to_local") for it in each.parameters()):
            raise ExactError(f"{name}: its weights are sharded, and a Loop keeps whole ones alone")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        raise ExactError("several processes: call torch.distributed.init_process_group before")


def _modules_of(objects: dict[str, Any]) -> dict[str, nn.Module]:
    """Return the modules among objects, as they are without DDP around them."""
    found: dict[str, nn.Module] = {}
    for name, each in objects.items():
        if isinstance(each, nn.Module):
            found[name] = each.module if isinstance(each, DistributedDataParallel) else each
    return found
