"""Population-based training: the schedule that is found is one run, and whatever kills the sweep changes nothing of it."""

import math
import random
import shlex
from types import SimpleNamespace

import pytest

from leyden.run.directory import Run
from leyden.run.fingerprints import first_difference, read_fingerprints
from leyden.sweep.dimension import Choice, Dimension, Interval
from leyden.sweep.population import Population, perturbed
from leyden.sweep.space import Space
from tests.conftest import SMALL, assert_same_bits

SWEEP = (
    "-m",
    "sweep=pbt",
    "sweep_name=p",
    "hydra.sweeper.size=4",
    "seed=0",
    "optimizer=sgd",
    "sweep.pictures=none",
)
SPACE = ("optimizer.lr=tag(log,interval(0.001,0.1))", "optimizer.momentum=choice(0.0,0.5,0.9)")
FEW = (*SMALL, "callbacks=bare", "trainer.max_epochs=4", "hydra.sweeper.interval=1")


@pytest.fixture
def population(cli, tmp_path):
    def train(*arguments, code=0):
        found, out, err = cli("train", *SWEEP, *SPACE, *FEW, *arguments)
        assert found == code, err
        return tmp_path / "outputs" / "sweeps" / "p", out, err

    return train


def lines(directory):
    return {
        path.parent: read_fingerprints(path.parent) for path in sorted(directory.glob("epoch-*/fingerprint.csv"))
    }


def test_the_schedule_of_the_best_member_is_one_run_bit_for_bit(population, cli, tmp_path):
    directory, out, _ = population()
    runs = [Run(path) for path in lines(directory)]
    assert len(runs) == 16
    assert {run.result.epochs for run in runs} == {1, 2, 3, 4}
    parents = [run.config["fork"] for run in runs if run.config["fork"]]
    assert len({run.config["seed"] for run in runs}) > 1
    assert {run.config["data"]["split_seed"] for run in runs} == {0}
    assert len(parents) == 12
    assert len({*parents}) < 12  # a good member was taken twice
    *_, typed = shlex.split((directory / "replay.sh").read_text())
    assert typed.startswith("+callbacks.values=")
    command = shlex.split((directory / "replay.sh").read_text())[3:]
    code, _, err = cli("train", *command, f"run_dir={tmp_path / 'replay'}", "callbacks.fingerprint.every_n_steps=1")
    assert code == 0, err
    (name,) = {line.split()[0] for line in out.splitlines() if "as one run, bit for bit" in line}
    best, replay = Run(directory / name), Run(tmp_path / "replay")
    assert_same_bits(best.directory, replay.directory)
    found, known = read_fingerprints(replay.directory), read_fingerprints(best.directory)
    assert {*known} == {10, 20, 30, 40}
    assert first_difference(found, known) is None
    assert replay.result.metrics["val/acc"] == best.result.metrics["val/acc"]


def test_killed_in_any_generation_the_same_command_decides_as_it_would_have(population, monkeypatch):
    directory, *_ = population()
    whole, command = lines(directory), (directory / "replay.sh").read_text()
    before = {path: path.stat().st_mtime_ns for path in directory.glob("epoch-*/result.json")}
    population("cluster.num_jobs=1")  # nothing is left to do, whatever steers it
    assert {path: path.stat().st_mtime_ns for path in directory.glob("epoch-*/result.json")} == before
    for epochs in (4, 2):  # as if it had been killed then
        for path in directory.glob("epoch-*"):
            number = int(path.name[6])
            if (number >= epochs and path.name.endswith(("member-1", "member-3"))) or number > epochs:
                for each in sorted(path.rglob("*"), reverse=True):
                    each.rmdir() if each.is_dir() else each.unlink()
                path.rmdir()
        population()
        assert lines(directory) == whole
        assert (directory / "replay.sh").read_text() == command


def test_a_member_that_diverges_is_replaced(population):
    directory, *_ = population("optimizer.lr=choice(0.01,1e30)", "optimizer.momentum=0.5")
    runs = [Run(path.parent) for path in directory.glob("epoch-*/result.json")]
    states = {run.directory.name: run.result.status for run in runs}
    assert "failed" in states.values()
    assert "finished" in [state for name, state in states.items() if name.startswith("epoch-4")]


def test_all_that_differs_by_the_sweep_is_another_one(population):
    population()
    _, _, err = population("hydra.sweeper.size=5", code=2)
    assert "holds another sweep: hydra.sweeper.size 4 there, 5 here; choose" in err


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.dropout=0.1,0.2", "model.dropout is searched; a population searches values of the optimizer"),
        ("logger=none", "logger: the members are compared by metrics.csv, which nothing writes here"),
        ("scheduler=cosine", "a population finds the schedule; choose scheduler=none"),
        ("sweep.seeds=3", "each member of a population has a seed of its own"),
        ("hydra.sweeper.size=1", "hydra.sweeper.size=1: must be a whole number, 2 or larger"),
        ("hydra.sweeper.interval=0.5", "hydra.sweeper.interval=0.5: must be a whole number, 1 or larger"),
        ("hydra.sweeper.share=0.7", "hydra.sweeper.share=0.7: must be a part"),
        ("hydra.sweeper.factors=[0]", "hydra.sweeper.factors: must be positive numbers"),
        ("trainer.max_epochs=-1", "trainer.max_epochs=-1: a population needs an end"),
        ("objective=null", "objective: a population is compared by one metric"),
        (
            "+optimizer.groups.b={match: '*.bias', lr: 0.1}",
            "optimizer.groups: optimizer.lr is searched, and a group",
        ),
        ("+hydra.sweeper.when={optimizer.lr:{optimizer:sgd}}", "hydra.sweeper.when"),
    ],
)
def test_what_it_can_not_do_is_refused(population, argument, said):
    directory, _, err = population(argument, code=2)
    assert said in err
    assert not directory.exists()


def test_a_population_of_forks_is_refused(population, cli, tmp_path):
    parent = tmp_path / "parent"
    assert cli("train", f"run_dir={parent}", "optimizer=sgd", *FEW[:-2], "trainer.max_epochs=1")[0] == 0
    _, _, err = population(f"fork={parent}@1", code=2)
    assert "a population starts from new weights" in err


@pytest.mark.parametrize("reached", [[0.1, 0.9, 0.5], [math.nan, 0.9, 0.5]])
def test_no_member_is_both_among_the_best_and_the_worst(monkeypatch, tmp_path, reached):
    for number, value in enumerate(reached):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "metrics.csv").write_text(f"step,name,value\n9,val/acc,{value}\n")
    rate = Dimension("optimizer.lr", ("optimizer.lr",), interval=Interval(1e-3, 1e-1, True))
    found = Population(
        SimpleNamespace(), Space([rate], {}), 3, 1, share=0.5, factors=[2], max_epochs=2, seed=0, common=[]
    )
    before = found.members
    config = SimpleNamespace(objective={"metric": "val/acc", "mode": "max"})
    runs = [SimpleNamespace(directory=tmp_path / str(n), result=SimpleNamespace(error=None)) for n in range(3)]
    found.ended(1, [SimpleNamespace(run=run, task_config=config) for run in runs])
    assert [member.run for member in found.members] == [runs[1], runs[1], runs[2]]
    kept = [member.settings[-1] == old.settings[-1] for member, old in zip(found.members, before, strict=True)]
    assert kept == [False, True, True]


def test_values_are_perturbed_within_their_bounds():
    chance = random.Random(0)
    rate = Dimension("a", ("a",), interval=Interval(1e-3, 1e-1, True))
    whole = Dimension("b", ("b",), interval=Interval(2, 9, False))
    listed = Dimension("c", ("c",), {text: Choice((f"c={text}",), {"c": text}) for text in "xyz"})
    for _ in range(100):
        assert perturbed(rate, 0.01, [0.5, 2], chance) in (0.005, 0.02)
        assert 1e-3 <= perturbed(rate, 1e-3, [0.5, 2], chance) <= 2e-3
        assert perturbed(whole, 9, [0.8, 1.25], chance) in (7, 9)
        assert perturbed(listed, "y", [2], chance) in ("x", "z")
        assert perturbed(listed, "z", [2], chance) in ("y", "z")
