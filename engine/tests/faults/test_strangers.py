"""A run directory of a stranger, which no verb uses and any report reads: nothing that its record names is executed or written.

What its configuration and its starts say is drawn at random.
"""

import json
import os
import random
import secrets
import shutil

import pytest
import torch

from tests import records
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


def poison(rng, bait):
    """A value that would do something, if anything of it were made, resolved or parsed."""
    new = str(bait / "new")
    nodes = [
        {"_target_": "builtins.open", "file": new, "mode": "w"},
        {"_target_": "os.mkdir", "path": new},
        {"_target_": "torch.load", "f": str(bait / "x.pt"), "weights_only": False},
        {"_target_": "torch.serialization.load", "f": str(bait / "x.pt"), "weights_only": False, "_partial_": True},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": new}},
        {"_target_": "leyden.loggers.MLflow", "tracking_uri": f"sqlite:///{new}", "save_dir": new},
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
    records.put(run, config=config, starts=starts, is_own=False)


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
    (tmp_path / "x.png").touch()
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


VERBS = (
    ("evaluate", "run=RUN"),
    ("predict", "run=RUN", "images=x.png"),
    ("export", "run=RUN", "output=x.onnx"),
    ("reproduce", "run=RUN", "output=anew"),
    ("train", "run_dir=RUN", HEAD),
    ("train", "run_dir=fork", "fork=RUN@1", HEAD),
    ("train", "-m", "sweep_name=s", "outputs=outputs", "fork=RUN@1", "seed=0,1", HEAD),
)
REPORTS = (("runs", "."), ("summarize", "."), ("compare", "RUN", "RUN"), ("runs", ".", "diff=[RUN,RUN]"))


def test_of_a_strangers_run_no_verb_uses_anything(parent, seed, trials, tmp_path):
    os.environ["SECRET"] = SECRET
    for n in range(trials * 2):
        run, bait = drawn(n, seed, parent, tmp_path)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        verb = [word.replace("RUN", str(run)) for word in VERBS[n % len(VERBS)]]
        code, output = call(*verb, directory=tmp_path)
        check(n, seed, code, output, bait, [tmp_path / "fork", tmp_path / "outputs"])
        assert (code, is_clean(code, output)) == (2, True), output
        assert "is not a run of yours" in output or "not a run directory" in output, output
        report = [word.replace("RUN", str(run)) for word in REPORTS[n % len(REPORTS)]]
        code, output = call(*report, directory=tmp_path)
        check(n, seed, code, output, bait, [])
        assert is_clean(code, output), output
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert before == {path: content for path, content in after.items() if not path.name.startswith("summary.")}
        shutil.rmtree(run)
