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
        {"_target_": "torch.load", "f": str(bait / "x.pt"), "weights_only": False},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": new}},
        {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": f"sqlite:///{new}", "save_dir": new},
        {"_target_": f"{OWN}.data.mnist.MNIST", "root": new, "train": True, "download": True},
        {"_args_": [new, "w"], "_target_": "builtins.open"},
    ]
    texts = [
        "${oc.env:SECRET}",
        "\\${oc.env:SECRET}",
        "${oc.env:SECRET",
        "???",
        "\x1b[31m",
        "a\nb",
        new,
        "",
        "=",
        "~",
    ]
    texts += ["${oc.create:'{_target_: os.mkdir, path: " + new + "}'}", f"../../{new}", "os.mkdir", "1e3"]
    value = rng.choice([rng.choice(nodes), rng.choice(texts), rng.choice([0, -1, 0.5, 10**30, None])])
    for _ in range(rng.choice([0, 0, 1, 2])):
        value = rng.choice([[value], {"a": value}, {"_target_": value}])
    return value


def hostile(rng, run, bait):
    """Change some places of a run's configuration, and what was typed for it."""
    config = records.config(run)
    for _ in range(rng.choice([1, 1, 2])):
        node = rng.choice([config, *(each for each in config.values() if isinstance(each, dict) and each)])
        key = rng.choice([*node, "_args_", "_partial_", "x.y", "a\nleyden: b", "hydra", "defaults", "../conf", 5])
        node[key] = poison(rng, bait)
    starts, value = records.starts(run), poison(rng, bait)
    text = value if isinstance(value, str) else json.dumps(value)
    starts[-1]["overrides"] += rng.choice([[], [f"+callbacks.evil={text}"], [text], ["--config-dir=/"]])
    records.put(run, config=config, starts=starts, is_own=False)


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
    bait = tmp_path / "bait"
    bait.mkdir()
    (tmp_path / "x.png").touch()
    torch.save(Payload(str(bait / "new")), bait / "x.pt")
    for n in range(trials * 2):
        run = tmp_path / f"run{n}"
        shutil.copytree(parent, run)
        hostile(random.Random(f"{seed} {n}"), run, bait)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for words, is_verb in ((VERBS[n % len(VERBS)], True), (REPORTS[n % len(REPORTS)], False)):
            code, output = call(*(word.replace("RUN", str(run)) for word in words), directory=tmp_path)
            told = f"FAULTS_SEED={seed}, trial {n}: {code}\n{output}"
            assert is_clean(code, output), told
            assert [path.name for path in bait.iterdir()] == ["x.pt"], told
            assert SECRET not in output, told
            assert not [line for line in output.splitlines() if line.startswith("leyden: b")], told
            if is_verb:
                assert code == 2, told
                assert "is not a run of yours" in output or "not a run directory" in output, told
                assert not (tmp_path / "fork").exists(), told
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert before == {path: content for path, content in after.items() if not path.name.startswith("summary.")}
        shutil.rmtree(run)
