"""Killed at any file operation and started again, a run shows what one that was never killed shows."""

import os
import random
import shutil
import signal

import pytest
from optuna.trial import TrialState
from tensorboard.plugins.hparams import api_pb2

from leyden.run.directory import Run
from leyden.sweep.search import open_study
from tests.callbacks.events import hparams
from tests.faults.commands import call, in_forks, on_operations
from tests.faults.kills import shown, train

pytestmark = pytest.mark.faults


class StoppedError(OSError):
    pass


def failing():
    """Let a training fail in its second epoch."""
    from leyden.tasks import Classification

    step = Classification.training_step

    def failing_step(self, batch):
        if self.global_step == 9:
            raise StoppedError("the disk is gone")
        return step(self, batch)

    Classification.training_step = failing_step


def moments(num_operations, num, rng):
    """Places to kill at, pairs of an operation and whether after it; all that there are, or so many of them."""
    every = [(n, after) for n in range(num_operations) for after in (False, True)]
    return sorted(rng.sample(every, min(num, len(every))))


def differences(a, b):
    """What two runs show differently, in short lines."""
    found = []
    for key in a:
        there, here = (
            set(map(str, shown[key].items() if isinstance(shown[key], dict) else shown[key])) for shown in (a, b)
        )
        if a[key] != b[key]:
            found.append(f"{key}: lost {sorted(there - here)}, new {sorted(here - there)}"[:500])
    return found


class Kills:
    """Runs that are killed at one or several moments, compared with one that was not."""

    def __init__(self, folder, seed, *arguments):
        self.folder, self.seed, self.arguments = folder, seed, arguments
        self.failures, self.num = [], 0

    def whole(self):
        code, self.operations, output = train(self.folder / "whole", *self.arguments)
        assert code == 0, output
        self.expected = shown(self.folder / "whole")

    def kill(self, *moments, begun=None, setup=None):
        """Kill at each of the moments, in a start each, then let it end, and compare."""
        directory = self.folder / f"killed{self.num}"
        self.num += 1
        if begun:
            shutil.copytree(begun, directory)
        history = []
        for n, after in moments:
            code, operations, output = train(directory, *self.arguments, at=n, after=after, setup=setup)
            at = operations[-1] if operations else "it had ended"
            history.append(f"{'after' if after else 'before'} {n} ({at})")
            assert code in (-9, 0, 1), output  # it can have ended, or failed, before
        try:
            code, _, output = train(directory, *self.arguments)
            assert code == 0, output
            problems = differences(self.expected, shown(directory))
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            self.failures.append(
                "\n".join([f"FAULTS_SEED={self.seed}, killed {', then '.join(history)}", *problems])
            )
        shutil.rmtree(directory)

    def end(self):
        print(f"{self.num} trials, {len(self.failures)} failed")
        assert not self.failures, "\n\n".join(self.failures)


@pytest.fixture
def kills(tmp_path, seed, data):
    made = Kills(tmp_path, seed, *data)
    made.whole()
    return made


def test_killed_once(kills, trials, seed):
    for moment in moments(len(kills.operations), trials, random.Random(seed)):
        kills.kill(moment)
    kills.end()


def test_killed_again_and_again(kills, trials, seed):
    rng = random.Random(seed)
    for _ in range(min(trials // 4, 200)):
        # The end of a run is short, and there most that is written is not checked by a checkpoint.
        kills.kill(
            *(
                (int(len(kills.operations) * rng.random() ** rng.choice((1, 0.2))), rng.random() < 0.5)
                for _ in "abc"
            )
        )
    kills.end()


def test_killed_while_it_trains_longer(kills, trials, seed):
    first = kills.folder / "whole"
    kills.arguments = (*kills.arguments, "trainer.max_epochs=3")
    shutil.copytree(first, kills.folder / "begun")
    kills.whole()  # goes on
    for moment in moments(len(kills.operations), trials // 4, random.Random(seed)):
        kills.kill(moment, begun=kills.folder / "begun")
    kills.end()


def test_killed_while_it_fails(kills, trials, seed):
    rng = random.Random(seed)
    code, operations, output = train(kills.folder / "failing", *kills.arguments, setup=failing)
    assert code == 1, output  # a bug, as any error in a step
    run = Run(kills.folder / "failing" / "run")
    assert (run.result.status, hparams(run)[1]) == ("failed", api_pb2.STATUS_FAILURE)
    for n, after in moments(16, trials // 4, rng):
        never = (10**6, False)  # it fails once more, then it goes on
        kills.kill((len(operations) - 1 - n, after), *rng.choice(([], [never])), setup=failing)
    kills.end()


NUM_TRIALS = 4
SEARCHED = (
    "sweep.space=tests.sweep.spaces.optimizers",
    "sweep.settings=[{model.dropout:0.0,trainer.gradient_clip_val:1.0},{model.dropout:0.1}]",
)


def searching(directory, *arguments, at):
    """A search that is killed, its jobs with it, at one of its own operations on files; None for none."""
    directory.mkdir(exist_ok=True)
    operations = directory / "operations"

    def before():
        in_forks()
        pid, seen = os.getpid(), os.open(operations, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def act(number, name):
            if os.getpid() == pid:  # jobs are copies of it
                os.write(seen, b".")
                if number == at:
                    os.kill(pid, signal.SIGKILL)

        on_operations(directory / "sweeps", act)()

    typed = ("-m", "hydra/sweeper=optuna", "sweep_name=s", f"outputs={directory}", "cluster.num_jobs=2")
    further = ("optimizer.lr=tag(log,interval(0.001,0.1))", f"hydra.sweeper.num_trials={NUM_TRIALS}")
    code, output = call("train", *typed, *further, *arguments, directory=directory, before=before)
    return code, output, operations.stat().st_size


def test_a_search_killed_has_all_its_trials_once(tmp_path, data, trials, seed):
    rng = random.Random(seed)
    arguments = (*(each for each in data if "dropout" not in each), *SEARCHED)
    code, output, num_operations = searching(tmp_path / "whole", *arguments, at=None)
    assert code == 0, output
    for number in range(max(2, trials // 8)):
        directory, history = tmp_path / str(number), []
        for _ in range(rng.randint(1, 2)):
            history.append(rng.randint(1, num_operations))
            code, output, _ = searching(directory, *arguments, at=history[-1])
            assert code in (-9, 0), output  # the second one has less to do
        code, output, _ = searching(directory, *arguments, at=None)
        told = f"FAULTS_SEED={seed}, killed at {history}: {output}"
        assert code == 0, told
        found = open_study(directory / "sweeps" / "s").get_trials(deepcopy=False)
        complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
        assert len(complete) == NUM_TRIALS, told
        assert TrialState.RUNNING not in {trial.state for trial in found}, told
        runs = [Run(path.parent) for path in (directory / "sweeps" / "s").glob("*/config.yaml")]
        assert [run.result.status for run in runs] == ["finished"] * NUM_TRIALS, told
        names = [each.user_attrs["run"] for each in complete]
        assert sorted(names) == sorted(run.directory.name for run in runs), told
        for run in runs:
            row = (run.config["model"]["dropout"], run.config["trainer"].get("gradient_clip_val"))
            assert row in ((0.0, 1.0), (0.1, None)), told
            momentum = any(override.startswith("optimizer.momentum=") for override in run.overrides)
            assert momentum == ("optimizer=sgd" in run.overrides), told
        shutil.rmtree(directory)
