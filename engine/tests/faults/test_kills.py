"""Killed at any file operation and started again, a run shows what one that was never killed shows."""

import os
import re
import shutil
import signal
import sys
from collections import Counter
from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api_pb2

from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.run.result import read_points
from leyden.sweep.search import open_study
from tests import records
from tests.callbacks.events import hparams
from tests.conftest import assert_same_bits
from tests.faults import commands
from tests.faults.commands import at_step, call, in_forks, on_operations

pytestmark = pytest.mark.faults


def kill(frame, event, arg):
    """Kill this process at the first thing that happens when an operation on files is done."""
    if frame.f_code.co_filename not in (__file__, commands.__file__):
        os.kill(os.getpid(), signal.SIGKILL)


def train(directory, *arguments, at=None, after=False, setup=lambda: None, below="", only_writes=True):
    """Train in a directory, be killed before or after an operation, and return the code, the operations and the output."""
    directory.mkdir(exist_ok=True)
    log = directory.with_suffix(".operations")

    def before():
        setup()
        pid, seen = os.getpid(), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def act(number, name):
            if os.getpid() == pid:  # jobs of a sweep are copies of it
                os.write(seen, f"{name}\n".encode())
                if number - 1 == at:
                    sys.setprofile(kill) if after else os.kill(pid, signal.SIGKILL)

        on_operations(directory / below, act, only_writes=only_writes)()

    given = (*arguments, f"outputs={directory}")
    code, output = call("train", *given, directory=directory.parent, name=directory.name, before=before)
    return code, log.read_text().splitlines(), output


def train_run(directory, *arguments, **kwargs):
    return train(directory, f"run_dir={directory / 'run'}", *arguments, **kwargs)


def shown(directory):
    """All that a finished run shows, less what differs from start to start; each point must be there once."""
    run = Run(directory / "run")
    curves, events, values = read_points(run.directory / "metrics.csv"), Counter(), {}
    for path in sorted(run.directory.glob("*/events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                is_time = value.tag.startswith("time/")
                tag = value.tag if is_time else f"{path.parent.name}:{value.tag}"
                events[tag, event.step] += 1
                values[tag, event.step] = None if is_time else value.tensor.SerializeToString()
            if event.HasField("graph_def"):
                events["graph", event.step] += 1
    assert max(events.values()) == 1, {key: count for key, count in events.items() if count > 1}
    assert max(Counter((step, metric) for step, metric, _ in curves).values()) == 1
    assert not [path for path in directory.rglob("*") if re.search(r"\.(tmp|prepared)$", path.name)]
    table = (run.directory / "metrics.csv").read_text().splitlines()
    assert (table[0], len(table)) == ("step,metric,value", 1 + len(curves))
    tests = records.table(directory / "test_evaluations.csv")  # a kill after one may make it again
    return {
        "result": asdict(replace(run.result, seconds=None, samples_per_second=None)),
        "curves": [(step, name, None if name.startswith("time/") else value) for step, name, value in curves],
        "events": {*events},
        "values": values,
        "row": hparams(run),
        "test_evaluations": {(row["experiment"], row["checkpoint"], row["metrics"]) for row in tests},
        "fingerprints": read_fingerprints(run.directory),
    }


def moments(num_operations, num, rng):
    """So many places to kill at: pairs of an operation and whether after it."""
    every = [(n, after) for n in range(num_operations) for after in (False, True)]
    return sorted(rng.sample(every, min(num, len(every))))


def differences(a, b):
    """What two runs show differently, in short lines."""
    found = []
    for key in a:
        there, here = ({*map(str, each.items() if isinstance(each, dict) else each)} for each in (a[key], b[key]))
        if a[key] != b[key]:
            found.append(f"{key}: lost {sorted(there - here)}, new {sorted(here - there)}"[:500])
    return found


class Kills:
    """Runs that are killed at one or several moments, compared with one that was not."""

    def __init__(self, folder, trial, data):
        self.folder, self.trial, self.arguments, self.num = folder, trial, data, 0
        self.train_whole()

    def train_whole(self):
        code, self.operations, output = train_run(self.folder / "whole", *self.arguments)
        assert code == 0, output
        self.expected = shown(self.folder / "whole")

    def kill(self, *moments, begun=None, **setup):
        """Kill at each of the moments, in a start each, then let it end, and compare."""
        self.num += 1
        directory = self.folder / f"killed{self.num}"
        with self.trial(f"killed at {moments}"):
            if begun:
                shutil.copytree(begun, directory)
            for n, after in moments:
                code, operations, output = train_run(directory, *self.arguments, at=n, after=after, **setup)
                print(f"{directory.name}: {operations[-1:] or 'it had ended'}")
                assert code in (-9, 0, 1), output  # it can have ended, or failed, before
            code, _, output = train_run(directory, *self.arguments)
            assert code == 0, output
            assert differences(self.expected, shown(directory)) == []
            for name in ("last", "best"):
                assert_same_bits(self.folder / "whole" / "run", directory / "run", name)
        shutil.rmtree(directory)


@pytest.fixture
def kills(tmp_path, trial, data):
    return Kills(tmp_path, trial, data)


def test_killed_once_or_again_and_again(kills, trials, rng):
    for moment in moments(len(kills.operations), trials, rng):
        kills.kill(moment)
    for _ in range(min(trials // 4, 200)):
        # The end of a run is short, and there most that is written is not checked by a checkpoint.
        places = [int(len(kills.operations) * rng.random() ** rng.choice((1, 0.2))) for _ in "abc"]
        kills.kill(*((place, rng.random() < 0.5) for place in places))


@pytest.mark.nightly  # killed once or again, it is killed by day
def test_killed_while_it_trains_longer(kills, trials, rng):
    begun = kills.folder / "begun"
    shutil.copytree(kills.folder / "whole", begun)
    kills.arguments = (*kills.arguments, "trainer.max_epochs=3")
    kills.train_whole()  # goes on
    for moment in moments(len(kills.operations), trials // 4, rng):
        kills.kill(moment, begun=begun)


@pytest.mark.nightly  # killed once or again, it is killed by day
def test_killed_while_it_fails(kills, trials, rng):
    failing = {"setup": at_step(9, Mock(side_effect=OSError("the disk is gone")))}  # in the second epoch
    code, operations, output = train_run(kills.folder / "failing", *kills.arguments, **failing)
    assert code == 1, output  # a bug, as any error in a step
    run = Run(kills.folder / "failing" / "run")
    assert (run.result.status, hparams(run)[1]) == ("failed", api_pb2.STATUS_FAILURE)
    for n, after in moments(16, trials // 4, rng):
        never = (10**6, False)  # it fails once more, then it goes on
        kills.kill((len(operations) - 1 - n, after), *rng.choice(([], [never])), **failing)


NUM_TRIALS = 4
SEARCHED = (
    "optimizer.lr=tag(log,interval(0.001,0.1))",
    f"hydra.sweeper.num_trials={NUM_TRIALS}",
    "sweep.space=tests.sweep.spaces.optimizers",
    "sweep.settings=[{model.dropout:0.0,trainer.gradient_clip_val:1.0},{model.dropout:0.1}]",
)


def search(directory, *arguments, at=None):
    """A search that is killed, its jobs with it, at one of its own operations on files; None for none."""
    typed = ("-m", "hydra/sweeper=optuna", "sweep_name=s", "cluster.num_jobs=2", *SEARCHED, *arguments)
    return train(directory, *typed, at=at, setup=in_forks, below="sweeps", only_writes=False)


def test_a_search_killed_has_all_its_trials_once(tmp_path, data, trials, rng):
    arguments = [each for each in data if "dropout" not in each]
    code, operations, output = search(tmp_path / "whole", *arguments)
    assert code == 0, output
    for number in range(max(1, trials // 8)):
        directory = tmp_path / str(number)
        for at in (*rng.sample(range(len(operations) - 1), rng.randint(1, 2)), None):
            code, _, output = search(directory, *arguments, at=at)
            told = f"at {at}: {output}"
            assert code == 0 or (code == -9 and at is not None), told  # the second one has less to do
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
