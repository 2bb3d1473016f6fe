"""Trainings in copies of this process, killed at a file operation; and all that a run directory shows."""

import csv
import os
import re
import signal
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from leyden.run.directory import Run
from leyden.run.result import read_points
from leyden.training import start  # noqa: F401 - what takes seconds to import is imported once
from tests.callbacks.events import hparams
from tests.faults import commands


def kill(frame, event, arg):
    """Kill this process at the first thing that happens when an operation on files is done."""
    if frame.f_code.co_filename not in (__file__, commands.__file__):
        os.kill(os.getpid(), signal.SIGKILL)


def train(directory, *arguments, at=None, after=False, setup=None):
    """Train into a directory, and be killed or not; returns what ended the process, its operations and its output.

    Args:
        directory: The run is `run` in it.
        arguments: Overrides.
        at: Number of the operation at which to kill; None for none.
        after: Whether after it, not before.
        setup: What the process does before.
    """
    directory.mkdir(exist_ok=True)
    log = directory.with_suffix(".operations")

    def before():
        if setup:
            setup()
        seen = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def act(number, name):
            os.write(seen, f"{name}\n".encode())
            if number - 1 == at:
                sys.setprofile(kill) if after else os.kill(os.getpid(), signal.SIGKILL)

        commands.on_operations(directory, act, only_writes=True)()

    given = (f"run_dir={directory / 'run'}", f"outputs={directory}", *arguments)
    code, output = commands.call("train", *given, directory=directory.parent, name=directory.name, before=before)
    return code, log.read_text().splitlines(), output


def shown(directory):
    """All that a finished run shows, less what differs from start to start: to be compared, and each point once."""
    run = Run(directory / "run")
    result = replace(run.result, seconds=None, samples_per_second=None)
    curves = read_points(run.directory / "metrics.csv")
    events, values = Counter(), {}
    for path in sorted(run.directory.glob("*/events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                tag = value.tag if value.tag.startswith("time/") else f"{path.parent.name}:{value.tag}"
                events[tag, event.step] += 1
                if not value.tag.startswith("time/"):
                    values[tag, event.step] = value.tensor.SerializeToString()
            if event.HasField("graph_def"):
                events["graph", event.step] += 1
    assert max(events.values()) == 1, {key: count for key, count in events.items() if count > 1}
    assert max(Counter((step, metric) for step, metric, _ in curves).values()) == 1
    assert not [path for path in directory.rglob("*") if re.search(r"\.(tmp|prepared)$", path.name)]
    table = (run.directory / "metrics.csv").read_text().splitlines()
    assert table[0] == "step,metric,value"
    assert len(table) == 1 + len(curves)
    return {
        "result": asdict(result),
        "curves": [point for point in curves if not point[1].startswith("time/")],
        "times": [(step, metric) for step, metric, _ in curves if metric.startswith("time/")],
        "events": {*events},
        "values": values,
        "row": hparams(run),
        "test_evaluations": test_evaluations(directory / "test_evaluations.csv"),
        "checkpoints": {name: checkpoint(run.directory, name) for name in ("last", "best")},
    }


def test_evaluations(path):
    """The test evaluations in the list: a run that is killed after one may make it again."""
    with path.open(newline="") as file:
        return {(row["experiment"], row["checkpoint"], row["metrics"]) for row in csv.DictReader(file)}


def checkpoint(directory: Path, name: str):
    """The bits that decide how a run goes on."""
    content = torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)
    weights = {key: value.tolist() for key, value in content["state_dict"].items()}
    kept = {key: state for key, state in content["callbacks"].items() if key in ("RunCheckpoint", "RankState")}
    return str([weights, content["optimizer_states"], content["global_step"], kept])
