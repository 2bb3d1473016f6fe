"""Killed at any file operation, or told to stop, and started again, a run shows what one that was never killed shows."""

import functools
import itertools
import os
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api_pb2

from leyden.run.curves import read_points
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.sweep.search import open_study
from tests import records
from tests.callbacks.events import hparams
from tests.conftest import assert_same_bits
from tests.faults import commands
from tests.faults.commands import Started, at_step, call, in_forks, on_operations, within

pytestmark = pytest.mark.faults


def kill(frame, event, arg):
    """Kill this process at the first thing that happens when an operation on files is done."""
    if frame.f_code.co_filename not in (__file__, commands.__file__):
        os.kill(os.getpid(), signal.SIGKILL)


def train(
    directory, *arguments, at=None, after=False, setup=lambda: None, below="", only_writes=True
):
    """Train in a directory, be killed before or after an operation, and return the code, the operations and the output."""
    directory.mkdir(exist_ok=True)
    log = directory.with_suffix(".operations")

    def before():
        setup()
        pid = os.getpid()
        seen = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def act(number, name):
            if os.getpid() == pid:  # jobs of a sweep are copies of it
                os.write(seen, f"{name}\n".encode())
                if number - 1 == at:
                    sys.setprofile(kill) if after else os.kill(pid, signal.SIGKILL)

        on_operations(directory / below, act, only_writes=only_writes)()

    where = within(directory)["-m" in arguments :]
    output = {"directory": directory.parent, "name": directory.name}
    code, output = call("train", *arguments, *where, before=before, **output)
    return code, log.read_text().splitlines(), output


def assert_each_once(places):
    assert [place for place, count in Counter(places).items() if count != 1] == []


def shown(directory):
    """All that a finished run shows, less what differs from start to start; each point must be there once."""
    run = Run(directory / "run")
    curves = read_points(run.directory / "metrics.csv")
    events = []
    for path in sorted(run.directory.glob("*/events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith("time/"):
                    events.append((value.tag, event.step, None))
                else:
                    tag = f"{path.parent.name}:{value.tag}"
                    events.append((tag, event.step, value.tensor.SerializeToString()))
            if event.HasField("graph_def"):
                events.append(("graph", event.step, None))
    assert_each_once([(tag, step) for tag, step, _ in events])
    assert_each_once([(step, metric) for step, metric, _ in curves])
    for path in directory.rglob("*"):
        assert path.suffix not in (".tmp", ".prepared")
    head, *lines = (run.directory / "metrics.csv").read_text().splitlines()
    assert head == "step,metric,value"
    assert len(lines) == len(curves)
    tests = records.table(directory / "test_evaluations.csv")  # a kill after one may make it again
    return {
        "result": asdict(replace(run.result, seconds=None, samples_per_second=None)),
        "curves": [
            (step, name, None if name.startswith("time/") else value)
            for step, name, value in curves
        ],
        "values": {(tag, step): value for tag, step, value in events},
        "row": hparams(run),
        "test_evaluations": {
            (row["experiment"], row["checkpoint"], row["metrics"]) for row in tests
        },
        "fingerprints": read_fingerprints(run.directory),
    }


def moments(num_operations, num, rng):
    """So many places to kill at: pairs of an operation and whether after it."""
    every = [*itertools.product(range(num_operations), (False, True))]
    return sorted(rng.sample(every, min(num, len(every))))


class Kills:
    """Runs that are killed at one or several moments, compared with one that was not."""

    def __init__(self, folder, data):
        self.folder = folder
        self.train_whole(*data)

    def train_whole(self, *arguments):
        self.arguments = arguments
        code, self.operations, output = train(self.folder / "whole", *arguments)
        assert code == 0, output
        self.expected = shown(self.folder / "whole")

    def kill(self, *moments, begun=None, **setup):
        """Kill at each of the moments, in a start each, then let it end, and compare."""
        directory = self.folder / "killed"
        if begun:
            shutil.copytree(begun, directory)
        for n, after in moments:
            code, operations, output = train(directory, *self.arguments, at=n, after=after, **setup)
            print(f"killed at {moments}: {operations[-1:] or 'it had ended'}")
            assert code in (-9, 0, 1), output  # it can have ended, or failed, before
        code, _, output = train(directory, *self.arguments)
        assert code == 0, output
        for what, found in shown(directory).items():
            assert found == self.expected[what], what
        for name in ("last", "best"):
            assert_same_bits(self.folder / "whole" / "run", directory / "run", name)
        shutil.rmtree(directory)


@pytest.fixture
def kills(tmp_path, data):
    return Kills(tmp_path, data)


def test_killed_once_or_again_and_again(kills, trials, rng):
    for moment in moments(len(kills.operations), trials, rng):
        kills.kill(moment)
    for _ in range(min(trials // 4, 200)):
        # The end of a run is short, and there most that is written is not checked by a checkpoint.
        places = [int(len(kills.operations) * rng.random() ** rng.choice((1, 0.2))) for _ in "abc"]
        kills.kill(*((place, rng.random() < 0.5) for place in places))


@pytest.mark.nightly  # killed once or again, it is killed by day
def test_killed_while_it_trains_longer(kills, trials, rng):
    begun = shutil.copytree(kills.folder / "whole", kills.folder / "begun")
    kills.train_whole(*kills.arguments, "trainer.max_epochs=3")  # goes on
    for moment in moments(len(kills.operations), trials // 4, rng):
        kills.kill(moment, begun=begun)


@pytest.mark.nightly  # killed once or again, it is killed by day
def test_killed_while_it_fails(kills, trials, rng):
    failing = {
        "setup": at_step(9, Mock(side_effect=OSError("the disk is gone")))
    }  # in the second epoch
    code, operations, output = train(kills.folder / "failing", *kills.arguments, **failing)
    run = Run(kills.folder / "failing" / "run")
    assert code == 1, output
    assert run.result.status == "failed", output
    assert hparams(run)[1] == api_pb2.STATUS_FAILURE, output
    for n, after in moments(16, trials // 4, rng):
        never = (10**6, False)  # it fails once more, then it goes on
        kills.kill((len(operations) - 1 - n, after), *rng.choice(([], [never])), **failing)


SEARCH = (
    "-m",
    "hydra/sweeper=optuna",
    "hydra.sweeper.num_trials=4",
    "sweep_name=s",
    "cluster.num_jobs=2",
    "optimizer.lr=tag(log,interval(0.001,0.1))",
    "sweep.space=tests.sweep.spaces.optimizers",
)
SETTINGS = "sweep.settings=[{model.dropout:0.0,trainer.gradient_clip_val:1.0},{model.dropout:0.1}]"


def test_a_search_killed_has_all_its_trials_once(tmp_path, data, trials, rng):
    """It is killed, its jobs with it, at one of its own operations on files."""
    arguments = (
        *SEARCH,
        SETTINGS,
        "callbacks=bare",
        *(each for each in data if "dropout" not in each),
    )
    search = functools.partial(train, setup=in_forks, below="sweeps", only_writes=False)
    code, operations, output = search(tmp_path / "whole", *arguments)
    assert code == 0, output
    for number in range(max(1, trials // 8)):
        directory = tmp_path / str(number)
        for at in (*rng.sample(range(len(operations) - 1), rng.randint(1, 2)), None):
            code, _, output = search(directory, *arguments, at=at)
            told = f"at {at}: {output}"
            assert code == 0 or (code == -9 and at is not None), (
                told
            )  # the second one has less to do
        found = open_study(directory / "sweeps" / "s").get_trials(deepcopy=False)
        assert TrialState.RUNNING not in {trial.state for trial in found}, told
        names = [trial.user_attrs["run"] for trial in found if trial.state == TrialState.COMPLETE]
        runs = [
            Run(path.parent) for path in sorted((directory / "sweeps" / "s").glob("*/config.yaml"))
        ]
        assert sorted(names) == [run.directory.name for run in runs], told
        assert [run.result.status for run in runs] == ["finished"] * 4, told
        for run in runs:
            row = (run.config["model"]["dropout"], run.config["trainer"].get("gradient_clip_val"))
            assert row in ((0.0, 1.0), (0.1, None)), told
            momentum = any(override.startswith("optimizer.momentum=") for override in run.overrides)
            assert momentum == ("optimizer=sgd" in run.overrides), told
        shutil.rmtree(directory)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = [
    number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN
]  # as SIGHUP is under nohup


def test_told_to_stop_at_any_time_once_or_twice_it_ends_without_a_traceback(
    tmp_path, whole, trials, rng
):
    for n in range(max(4, trials // 3)):
        folder = tmp_path / str(n)
        folder.mkdir()
        number = rng.choice(SIGNALS)
        pauses = [rng.uniform(0, 1.1 * whole.seconds)]
        again = rng.uniform(0, 0.1)
        if rng.random() < 0.5:
            pauses.append(again)
        started = Started("train", *whole.arguments(folder), directory=folder)
        for pause in pauses:
            time.sleep(pause)
            started.send(number)
        code, output = started.end()
        told = f"{number.name} after {pauses} s: {code}\n{output}"
        assert code in (0, 128 + number, -number), told
        assert "Traceback" not in output, told
        if (
            folder / "run"
        ).is_dir():  # those that a process leaves that is ended at once are another matter
            left = [
                path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".prepared"))
            ]
            assert not left or code == -number, f"{told}\n{left}"
        whole.resume(folder, told, output=folder)
