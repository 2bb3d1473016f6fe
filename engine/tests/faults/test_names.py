"""Whatever is typed as NAME of a new network, task or data set is refused in a line, or what is written works at once."""

import builtins
import importlib.util
import keyword
import random
import sys

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from leyden import scaffold
from leyden.config.errors import UserError
from tests.example import OWN

pytestmark = pytest.mark.faults

ODD = r"""
    null true false yes no on off nan inf none y n e1 o7 x1 b1 1e3 0x1 1_0
    nn f torch tensor task outcome dataset network math any shapes module linear self
    tests conf src data models tasks __init__ _ __ a_b a__b _a a_ mlp cnn mnist none
    . .. a.b a/b ../a a-b a\nb ä ａ A Mlp $x ${x} a'b a"b a:b a{b}
    classification regression choice range interval glob tag sort shuffle int float str
"""
WORDS = [
    *ODD.split(),
    *keyword.kwlist,
    *keyword.softkwlist,
    *(name.lower() for name in dir(builtins)),
    *sys.stdlib_module_names,
    *("", " ", "a b", "a\nb", "a" * 200),
]


def works(kind, module, folder, own):
    """Use what was written, as its first command would."""
    assert OverridesParser.create().parse_override(f"{kind}={module}").value() == module
    place = {"model": "models", "task": "tasks", "data": "data"}[kind]
    config = yaml.safe_load((folder / "conf" / kind / f"{module}.yaml").read_text())
    target = {"model": config, "task": config.get("task"), "data": config.get("dataset")}[kind]["_target_"]
    package, _, name = target.rpartition(".")
    assert package == f"{own}.{place}.{module}"
    spec = importlib.util.spec_from_file_location("written", folder / "src" / own / place / f"{module}.py")
    spec.loader.exec_module(code := importlib.util.module_from_spec(spec))
    made = getattr(code, name)
    if kind == "model":
        logits = made(input_shape=(1, 4, 4), num_classes=3, hidden_size=2)(torch.zeros(5, 1, 4, 4))
        assert logits.shape == (5, 3)
    elif kind == "task":
        outcome = made(network=nn.Linear(4, 3)).step((torch.zeros(5, 4), torch.zeros(5, dtype=torch.long)))
        assert outcome.loss.shape == ()
    else:
        assert made(root="x", train=False, download=False).data.shape == (1000, 32, 32)


def test_a_new_file_works_or_is_refused(seed, trials, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaffold, "ROOT", tmp_path)
    monkeypatch.setattr(scaffold, "SRC", tmp_path / "src")
    for folder in ("models", "tasks", "data"):
        (tmp_path / "src" / OWN / folder).mkdir(parents=True)
    for folder in ("model", "task", "data", "sweep"):
        (tmp_path / "conf" / folder).mkdir(parents=True)
    rng = random.Random(seed)
    written = 0
    for n in range(trials * 10):
        word = rng.choice(WORDS)
        kind, name = (
            rng.choice(["model", "task", "data"]),
            word if rng.random() < 0.8 else f"{word}_{rng.choice(WORDS)}",
        )
        told = f"FAULTS_SEED={seed}, trial {n}: leyden new {kind}={name!r}"
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        try:
            scaffold.write_part(kind, name)
        except UserError as error:
            refusal = str(error)
        except Exception as error:
            raise AssertionError(told) from error
        else:
            refusal = ""
        if refusal:
            assert refusal.startswith(f"{kind}={name}: "), told
            assert {path for path in tmp_path.rglob("*") if path.is_file()} == before, told
            continue
        written += 1
        try:
            works(kind, name, tmp_path, OWN)
        except Exception as error:
            raise AssertionError(told) from error
    capsys.readouterr()
    print(f"{trials * 10} names, {written} written")
