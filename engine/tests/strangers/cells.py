"""Runs of strangers' work, disturbed or not, and what a feature comes to with it."""

import contextlib
import functools
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import warnings
from typing import NamedTuple

from lightning.pytorch.strategies import Strategy

from leyden.callbacks.display import state_digest
from leyden.exact.checkpoint import SafeCheckpointIO
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from tests import records
from tests.conftest import here, start
from tests.faults.commands import call
from tests.forks import TIMEOUT_S
from tests.strangers.rows import ANEW, ANNOUNCED, PARTED, REFUSED, SAME, Work
from tests.training.test_start import curves

# Three epochs of eight batches, checkpoints within them: a run that is killed in batch 13 resumes in the middle of an epoch.
FEW = (
    "callbacks=bare",
    "callbacks.progress.refresh_rate=0",
    "callbacks.checkpoint.every_n_steps=3",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=3",
)
DIFFERS = "differs silently"
CRASH = "crash"
ASIDE = ("persistent_workers", "the test set")  # lines on stderr that tell nothing of bits
ANNOUNCEMENTS = ("exact resume is not guaranteed", PARTED)


class Outcome(NamedTuple):
    kind: str  # what a cell comes to
    line: str = ""  # that says so


class Done(NamedTuple):
    code: int | None
    output: str

    def told(self, *words):
        """Lines of the library; with words, those that have one of them."""
        lines = []
        for line in self.output.splitlines():
            has_word = not words or any(word in line for word in words)
            if line.startswith("leyden: ") and has_word:
                lines.append(line)
        return lines

    @property
    def failed(self):
        if self.code == 0:
            return None
        *_, last = ["", *self.output.strip().splitlines()]
        if self.code != 2 or "Traceback" in self.output:
            return Outcome(CRASH, f"code {self.code}: {last}")
        aside = self.told(*ASIDE)
        told = [line for line in self.told() if line not in aside]
        if told:
            return Outcome(REFUSED, told[-1])
        return Outcome(CRASH, last)


@functools.cache
def warm():
    """Train once in this process: what is done for the first time takes its copies half of their time."""
    out = contextlib.redirect_stdout(io.StringIO())
    err = contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, out, err:
        here(
            "train",
            *FEW,
            *Work("").arguments,
            f"outputs={folder}",
            f"run_dir={folder}/run",
            by_hydra=True,
        )


def kill_at(batch, by=signal.SIGKILL):
    """Send this process a signal in the training step of a batch, counted over all starts."""
    training_step = Strategy.training_step
    told = []
    rank = int(os.environ.get("KILL_RANK", "0"))

    @functools.wraps(training_step)
    def killing_step(self, *args, **kwargs):
        trainer = self.lightning_module.trainer
        is_due = trainer.fit_loop.total_batch_idx >= batch and trainer.global_rank == rank
        if is_due and not told:
            told.append(batch)
            os.kill(os.getpid(), by)
        return training_step(self, *args, **kwargs)

    Strategy.training_step = killing_step


class Row:
    """The runs of one kind of work in a folder, which its cells share."""

    def __init__(self, work, place):
        self.work = work
        self.place = place
        self._num = 0
        place.mkdir(exist_ok=True)

    def run(self, verb, *arguments, kill=None):
        self._num += 1
        arguments = (*arguments, f"outputs={self.place}")
        if self.work.anew:
            given = {"KILL_AT": str(kill[0]), "KILL_BY": str(int(kill[1]))} if kill else {}
            given |= {"VERB": verb, "PYTHONHASHSEED": str(self._num)}
            process = start(*arguments, script=("-m", "tests.strangers.cells"), anew=True, **given)
            output, _ = process.communicate(timeout=TIMEOUT_S)
            return Done(process.returncode, output)
        warm()

        def prepare():
            warnings.simplefilter(
                "ignore"
            )  # Lightning has some for strangers' work, and a user's are no errors
            sys.stderr.reconfigure(
                line_buffering=True
            )  # as a user's is: what a killed run has said is there
            if kill:
                kill_at(*kill)

        return Done(
            *call(verb, *arguments, directory=self.place, before=prepare, name=f"output{self._num}")
        )

    def train(self, name, *more, **kwargs):
        # Of one experiment, the first run alone would be evaluated on the test set.
        named = f"name={name.replace(' ', '_')}"
        typed = (*FEW, *self.work.arguments, named, f"run_dir={self.place / name}")
        return self.run("train", *typed, *more, **kwargs)

    @functools.cached_property
    def whole(self):
        """The run that nothing disturbs; each checkpoint of it stays."""
        return self.train("whole", "callbacks.checkpoint.keep_all=true")

    def resume(self):
        return self.killed((self.work.kill, signal.SIGKILL))

    def resume_often(self):
        """Killed in each epoch, and told to end once."""
        kill = signal.SIGKILL
        term = signal.SIGTERM
        return self.killed((4, kill), (5, kill), (10, term), (20, kill))

    def killed(self, *kills):
        """A run that is killed at each of these batches, and trains to its end."""
        name = f"killed {len(kills)}"
        told = []
        for kill in kills:
            done = self.train(name, kill=kill)
            told += done.told(*ANNOUNCEMENTS)
            if done.code == 0 and kill is not kills[0]:  # a short one has ended before that batch
                break
            if done.code not in (-kill[-1], 128 + kill[-1]):
                return done.failed or Outcome(
                    CRASH, f"the signal did not end it: {done.output[-200:]}"
                )
        done = self.train(
            name, "resume=must" if max(kill[0] for kill in kills) > 3 else "resume=auto"
        )
        return done.failed or self.compared(
            differences(self.place / "whole", self.place / name), told + done.told(*ANNOUNCEMENTS)
        )

    def compared(self, differing, told, kind=DIFFERS):
        """What runs come to that differ in these things, and have told this."""
        if not differing:
            return Outcome("same bits, but announced" if told else SAME, "".join(told[:1]))
        if told and (not self.work.names or any(word in "".join(told) for word in self.work.names)):
            return Outcome(ANNOUNCED, told[0])
        return Outcome(kind, "; ".join([*differing, *told[:1]]))

    def evaluate(self):
        for _ in range(3):
            done = self.run("evaluate", f"run={self.place / 'whole'}")
            if done.failed:
                return done.failed
        rows = records.table(self.place / "test_evaluations.csv")
        found = [
            json.loads(row["metrics"]) for row in rows if row["run"] == str(self.place / "whole")
        ]
        if len(found) != 4 or any(each != found[0] for each in found) or not found[0]:
            return Outcome(DIFFERS, "; ".join(map(str, found)))
        metrics = Run(self.place / "whole").result.metrics
        missing = [name for name in found[0] if metrics.get(name) != found[0][name]]
        return (
            Outcome(DIFFERS, f"not in the run's result: {', '.join(missing)}")
            if missing
            else Outcome(SAME)
        )

    def fork(self):
        """A fork from the middle of an epoch with one changed setting, which changes no bit before the parent's end."""
        kept = [
            int(path.stem[5:])
            for path in (self.place / "whole" / "checkpoints").glob("step_*.ckpt")
        ]
        at = f"step_{sorted(kept)[len(kept) // 2]}" if kept else "1"
        # What a fork does not take over: callbacks that are on no list, and intervals.
        apart = ("+callbacks.stranger", "callbacks.checkpoint")
        given = [each for each in self.work.arguments if each.startswith(apart)]
        given += [
            f"fork={self.place / 'whole'}@{at}",
            f"run_dir={self.place / 'fork'}",
            self.work.fork,
        ]
        done = self.run("train", *FEW[:3], "trainer.log_every_n_steps=1", *given)
        if done.failed:
            return done.failed
        parent = read_fingerprints(self.place / "whole")
        fork = read_fingerprints(self.place / "fork")
        if max(fork) < max(parent):
            return Outcome(CRASH, f"the fork ended at step {max(fork)}")
        parted = [
            f"step {step}, from {at}"
            for step in parent
            if step in fork and parent[step] != fork[step]
        ]
        told = self.whole.told(*ANNOUNCEMENTS) + done.told(*ANNOUNCEMENTS)
        return self.compared(
            parted[:1], told, ANEW if self.work.expected("fork") == ANEW else DIFFERS
        )


def differences(a, b):
    there = Run(a).result.metrics
    here = Run(b).result.metrics
    found = [
        name for name in sorted({*there, *here}) if repr(there.get(name)) != repr(here.get(name))
    ]
    for checkpoint in ("last", "best"):
        one = SafeCheckpointIO().load_checkpoint(a / "checkpoints" / f"{checkpoint}.ckpt")
        other = SafeCheckpointIO().load_checkpoint(b / "checkpoints" / f"{checkpoint}.ckpt")
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            if state_digest(one[key]) != state_digest(other[key]):
                found.append(f"{key} of {checkpoint}.ckpt")
    if sorted(curves(Run(a))) != sorted(curves(Run(b))):
        found.append("curves")
    return found


if (
    __name__ == "__main__"
):  # the environment says what to do, as processes of DDP are started by the same words
    if "KILL_AT" in os.environ:
        kill_at(int(os.environ["KILL_AT"]), int(os.environ["KILL_BY"]))
    importlib.import_module(f"leyden.{os.environ['VERB']}").main()
