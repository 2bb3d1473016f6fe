"""A checkpoint of a stranger that holds objects: no command makes one, so that nothing is deleted, imported or executed."""

import importlib.metadata
import os
import pickle
import random
import shutil
import sys
import tempfile
import types

import numpy as np
import pytest
import torch

from leyden.exact.memory import Memory
from tests.data import changing
from tests.exact.test_memory import frozen
from tests.faults.commands import call

pytestmark = pytest.mark.faults

KINDS = (
    int,
    float,
    complex,
    str,
    bool,
    bytes,
    type(None),
    list,
    dict,
    tuple,
    set,
    frozenset,
    torch.Tensor,
    torch.Size,
)
KINDS += (np.ndarray, np.float64, torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class Made:
    """Pickled as a call of any function, or as an object of any class."""

    def __init__(self, call, arguments=(), state=None):
        self.reduced = call, arguments, state

    def __reduce__(self):
        return self.reduced


def executes(bait):
    return Made(os.mkdir, (str(bait / "done"),))


def deletes_a_file(bait):
    state = {"file": 1, "delete": True, "name": str(bait / "kept.txt")}
    return Made(tempfile._TemporaryFileCloser.__new__, (tempfile._TemporaryFileCloser,), state)


def imports_a_file(bait):
    (bait / "evil.py").write_text(f"open({str(bait / 'done')!r}, 'w')")
    return Made(importlib.import_module, ("bait.evil",))


PAYLOADS = [executes, deletes_a_file, imports_a_file]
VERBS = {
    "evaluate": lambda run, data: ("evaluate", f"run={run}", "outputs=outputs"),
    "resume": lambda run, data: ("train", f"run_dir={run}", "outputs=outputs", *data, "trainer.max_epochs=3"),
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory, data):
    """A run on small data, in a copy of this process."""
    place = tmp_path_factory.mktemp("parent")
    typed = ("run_dir=run", "outputs=outputs", *data, "callbacks.checkpoint.keep_all=true", "trainer.max_epochs=1")
    code, output = call("train", *typed, "test=false", directory=place)
    assert code == 0, output
    return place / "run"


def poison(run, value, names):
    """Let each checkpoint of a run hold a value."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        for mine in content["callbacks"]["RankState"]["processes"]:
            content_of = {
                (("attribute", "module"), ("attribute", name)): ("value", [value, value]) for name in names
            }
            mine["memory"] = mine["set_up"] = frozen(content_of)
        path.unlink()
        torch.save(content, path)


@pytest.mark.parametrize("verb", VERBS)
def test_no_command_makes_an_object(parent, data, tmp_path, verb):
    for payload in PAYLOADS:
        bait = tmp_path / "bait"
        bait.mkdir()
        (bait / "kept.txt").touch()
        run = tmp_path / "run"
        shutil.copytree(parent, run)
        poison(run, payload(bait), ("evil", "training"))
        before = sorted(path.name for path in bait.iterdir())
        # The folder is on the path, as the project's root is.
        typed = VERBS[verb](run, data)
        code, output = call(*typed, directory=tmp_path, before=lambda: sys.path.insert(0, str(tmp_path)))
        after = sorted(path.name for path in bait.glob("*") if path.name != "__pycache__")
        assert after == before, f"{payload.__name__}:\n{output}"
        assert code == (0 if verb == "resume" else 2), output
        assert "Traceback" not in output
        assert output.count("Weights only load failed") == 1
        for path in (bait, run):
            shutil.rmtree(path)


def functions():
    """Every function and class that is imported here, but those that would end or stop this process."""
    modules = [each for each in [*sys.modules.values()] if isinstance(each, types.ModuleType)]
    found = {
        f"{each.__module__}.{each.__qualname__}": each
        for module in modules
        for each in [*vars(module).values()]
        if issubclass(type(each), type | types.FunctionType | types.BuiltinFunctionType)
        and isinstance(getattr(each, "__module__", None), str)
    }
    return [*found.values()]


def drawn(rng, known, depth=0):
    """A value, or what makes an object of any class, or calls any function."""
    if depth > 3 or rng.random() < 0.2:
        return rng.choice([0, "x", None, b"x", 0.5, "/", torch.zeros(2), np.ones(2), random.Random(1)])
    within = [drawn(rng, known, depth + 1) for _ in range(rng.randrange(3))]
    kind = rng.choice(["made", "made", "list", "tuple", "dict"])
    if kind == "made":
        return Made(rng.choice(known), tuple(within), rng.choice([None, {"a": 1}, (1, 2)]))
    return {"list": within, "tuple": tuple(within), "dict": dict(enumerate(within))}[kind]


def kinds_within(value):
    if isinstance(value, dict):
        return {dict} | {kind for each in value.values() for kind in kinds_within(each)}
    if isinstance(value, list | tuple | set | frozenset):
        return {type(value)} | {kind for each in value for kind in kinds_within(each)}
    return {type(value)}


@pytest.mark.filterwarnings("ignore")
def test_nothing_but_plain_values_is_ever_made(seed, trials):
    rng, known = random.Random(seed), functions()
    allowed = {*KINDS, *(type(np.dtype(each)) for each in "bifcU"), np.dtype}
    for n in range(trials * 20):
        owner = types.SimpleNamespace(value=rng.choice([None, [1], {"a": 1}, torch.zeros(2), random.Random(0)]))
        memory = Memory({"x": owner, "world": changing.World()})
        before = {type(each) for each in vars(owner).values()}
        path = (("attribute", "x"), ("attribute", rng.choice(["value", "new", "__class__", "__dict__"])))
        how = rng.choice(["value", "in place", "member", "state_dict", "generator"])
        try:
            kept = frozen({path: (how, drawn(rng, known))})
        except (pickle.PicklingError, TypeError, AttributeError):
            continue
        memory.restore(kept)
        found = {kind for each in vars(owner).values() for kind in kinds_within(each)}
        odd = {each for each in found - allowed - before if not issubclass(each, np.generic)}
        assert not odd, f"FAULTS_SEED={seed}, trial {n}: {odd}"
        assert type(owner) is types.SimpleNamespace
