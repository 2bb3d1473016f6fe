"""A run directory of a stranger, as parent of a fork or to be made anew: nothing of its maker's is executed, read or written.

What its configuration and its provenance say is drawn at random; what is not refused in a line or two must be as it says.
"""

import json
import os
import random
import secrets
import shutil
import subprocess

import pytest
import torch

from leyden.config.paths import ROOT
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.identity import identity_values
from tests import records
from tests.conftest import QUICK, finish, start
from tests.example import OWN
from tests.faults.commands import call, is_clean

pytestmark = pytest.mark.faults

SECRET = secrets.token_hex(8)  # what stands here would be in the diff that a run keeps
HEAD = "trainer.max_epochs=2"


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def parent(tmp_path_factory, data):
    """A run on small data, in a copy of this process."""
    place = tmp_path_factory.mktemp("parent")
    typed = ("run_dir=run", "outputs=outputs", *data, "callbacks.checkpoint.keep_all=true", "trainer.max_epochs=1")
    code, output = call("train", *typed, "test=false", directory=place)
    assert code == 0, output
    return place / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the example's data by a process that begins, as that which makes it anew."""
    place = tmp_path_factory.mktemp("trained")
    typed = (f"run_dir={place / 'run'}", f"outputs={place}", *QUICK, "trainer.max_epochs=1", "test=false")
    finish(start(*typed, anew=True))
    return place / "run"


def poison(rng, bait):
    """A value that would do something, if anything of it were made, resolved or parsed."""
    new = str(bait / "new")
    nodes = [
        {"_target_": "builtins.open", "file": new, "mode": "w"},
        {"_target_": "os.mkdir", "path": new},
        {"_target_": "torch.load", "f": str(bait / "x.pt"), "weights_only": False},
        {"_target_": "torch.serialization.load", "f": str(bait / "x.pt"), "weights_only": False, "_partial_": True},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": new}},
        {"_target_": "leyden.loggers.mlflow.MLflow", "tracking_uri": f"sqlite:///{new}", "save_dir": new},
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": new, "every_n_train_steps": 1},
        {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": new},
        {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": new, "filename": "x"},
        {"_target_": f"{OWN}.data.mnist.MNIST", "root": new, "train": True, "download": True},
        {"_target_": f"{OWN}.models.mlp.nn.modules.module.torch.load", "f": str(bait / "x.pt")},
        {"_args_": [new, "w"], "_target_": "builtins.open"},
    ]
    texts = [
        *(
            "${oc.env:SECRET}",
            "$\\{oc.env:SECRET\\}",
            "\\${oc.env:SECRET}",
            "x${oc.env:SECRET}y",
            "${oc.env:SECRET",
        ),
        *(
            "${oc.create:'{_target_: os.mkdir, path: " + new + "}'}",
            "???",
            "${seed}",
            "${now:%Y}",
            "\x1b[31m",
            "a\nb",
        ),
        *(
            new,
            f"../../{new}",
            f"file://{new}",
            "os.mkdir",
            "builtins.open",
            "advanced",
            "true",
            "1e3",
            "",
            "=",
            "~",
        ),
    ]
    value = rng.choice(
        [rng.choice(nodes), rng.choice(nodes), rng.choice(texts), rng.choice([0, 1, -1, 0.5, 10**30, None])]
    )
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        value = rng.choice(
            [[value], {"a": value}, {"_target_": value}, {"_target_": "torch.nn.Identity", "x": value}]
        )
    return value


# Keys that only the program may set, or that make a class fetch, load or write.
NOT_ITS = [
    "root",
    "download",
    "train",
    "_args_",
    "_partial_",
    "_recursive_",
    "params",
    "weights",
    "pretrained",
    "dirpath",
]
NOT_ITS += [
    "default_root_dir",
    "model_registry",
    "plugins",
    "logger",
    "callbacks",
    "_target_",
    "evil",
    "x.y",
    "a\nleyden: b",
]
# What a maker says was typed: files of `conf/` that the configuration does not follow from, and what is none.
CHOSEN = [
    "+debug=overfit",
    "+debug=anomaly",
    "+callbacks/stopping=early",
    "+callbacks/averaging=ema",
    "model=cnn",
    "data=folder",
]
CHOSEN += [
    "experiment=resnet",
    "optimizer=sgd",
    "scheduler=cosine",
    "~model.dropout",
    "~optimizer.lr",
    "+optimizer.lr=3",
    "+-m",
]
CHOSEN += ["+run_dir=3", "hydra/launcher=basic", "--config-dir=/", "model=../../evil", "++seed=5"]


def hostile(rng, run, bait):
    """Change one or two places of a run's configuration, and what was typed for it."""
    config = records.config(run)
    for _ in range(rng.choice([1, 1, 1, 2])):
        nodes = [config, *(node for _, node in all_nodes(config))]
        node = rng.choice([config[key] for key in ("model", "data", "task", "optimizer", "trainer")] + nodes)
        keys = list(node) or ["x"]
        kind = rng.choice(["value", "number", "remove", "add", "twin", "root"])
        if kind == "value":
            node[rng.choice(keys)] = poison(rng, bait)
        elif kind == "number":
            numbers = [key for key in keys if type(node.get(key)) in (int, float)] or keys
            node[rng.choice(numbers)] = rng.choice([0, 1, 2, 3, 0.5, 0.25, 1e-5, None, True, False])
        elif kind == "remove":
            node.pop(rng.choice(["_target_", *keys]), None)
        elif kind == "add":
            node[rng.choice(NOT_ITS)] = rng.choice([True, 1, poison(rng, bait), poison(rng, bait)])
        elif kind == "twin":
            node[rng.choice([1, 5, "1", "5"])] = poison(rng, bait)
        else:
            config[rng.choice(["hydra", "defaults", "hydra/launcher", "../conf", "evil", "sweep", "cluster"])] = (
                poison(rng, bait)
            )
    starts = records.starts(run)
    value = poison(rng, bait)
    text = value if isinstance(value, str) else json.dumps(value)
    typed = [
        [],
        [],
        [rng.choice(CHOSEN)],
        rng.sample(CHOSEN, 2),
        [f"+callbacks.evil={text}"],
        [f"model={text}"],
        [text],
    ]
    starts[-1]["overrides"] += rng.choice(typed)
    records.put(run, config=config, starts=starts)


def all_nodes(node, path=()):
    """The dictionaries within a configuration."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield (*path, key), value
            yield from all_nodes(value, (*path, key))


def drawn(n, seed, parent, tmp_path):
    """A hostile copy of a run, and where nothing may come to be."""
    rng = random.Random(f"{seed} {n}")
    run, bait = tmp_path / f"run{n}", tmp_path / "bait"
    shutil.copytree(parent, run)
    bait.mkdir(exist_ok=True)
    torch.save(Payload(str(bait / "new")), bait / "x.pt")
    hostile(rng, run, bait)
    return run, bait


def check(n, seed, code, output, bait, places):
    """Make sure that nothing was executed, written elsewhere, or told."""
    told = f"FAULTS_SEED={seed}, trial {n}:\n{output}"
    assert [path.name for path in bait.iterdir()] == ["x.pt"], told
    assert SECRET not in output, told
    for path in (path for place in places for path in place.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), told
    assert code is not None, f"hung: {told}"
    assert not [line for line in output.splitlines() if line.startswith("leyden: b")], told


def test_a_fork_of_a_stranger(parent, data, seed, trials, tmp_path):
    os.environ["SECRET"] = SECRET
    forked, unclear = 0, []
    for n in range(trials * 2):
        run, bait = drawn(n, seed, parent, tmp_path)
        typed = (f"fork={run}@1", HEAD, "run_dir=fork", "outputs=outputs", data[0], "trainer.limit_train_batches=2")
        code, output = call("train", *typed, directory=tmp_path)
        check(n, seed, code, output, bait, [tmp_path / "fork", tmp_path / "outputs"])
        if not is_clean(code, output):  # of no harm; `test_overrides.py` is about what can be typed
            unclear.append(output.strip().splitlines()[-1])
        if code == 0:
            forked += 1
            there, here = (
                {key: repr(value) for key, value in identity_values(dict(flatten(Run(each).config))).items()}
                for each in (run, tmp_path / "fork")
            )
            apart = {key for key in {**there, **here} if there.get(key) != here.get(key)}
            assert apart <= {"fork", "trainer.max_epochs", "trainer.limit_train_batches"} | told_apart(output), (
                n,
                seed,
                apart,
            )
        shutil.rmtree(run)
        shutil.rmtree(tmp_path / "fork", ignore_errors=True)
    print(f"{trials * 2} strangers, {forked} forked, {len(unclear)} ended in more than two lines: {unclear}")


def told_apart(output):
    """The settings that a fork's first line names as different."""
    line = next(line for line in output.splitlines() if line.startswith("fork of "))
    return {part.partition(":")[0].strip() for part in line.partition(", with ")[2].split(";")}


def test_a_stranger_is_made_anew(trained, seed, trials, tmp_path):
    os.environ["SECRET"] = SECRET
    before = work_trees()
    for n in range(max(2, trials // 4)):
        run, bait = drawn(n, seed, trained, tmp_path)
        starts = records.starts(run)
        starts[-1]["git"] = {**starts[-1]["git"], "dirty": False, "diff": ""}  # else that is what is refused
        records.put(run, starts=starts)
        code, output = call("reproduce", f"run={run}", f"output={tmp_path / 'anew'}", directory=tmp_path)
        check(n, seed, 0 if code == 1 else code, output, bait, [tmp_path / "anew"])
        shutil.rmtree(run)
        shutil.rmtree(tmp_path / "anew", ignore_errors=True)
    assert work_trees() == before


def work_trees():
    """How many there are of this repository."""
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    return len(listed.stdout.splitlines())
