"""A checkpoint of a stranger that holds objects: no command makes one, so that nothing is deleted, imported or executed."""

import importlib.metadata
import random
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import PIL.ImageFile
import pytest
import torch

import leyden
from leyden.exact import encoding
from leyden.exact.object_state import ObjectState
from tests.data import changing
from tests.faults.commands import call
from tests.faults.test_strangers import parent  # noqa: F401 - a fixture

pytestmark = pytest.mark.faults

IMAGES = Path(__file__).parents[2] / "docs" / "images"
KINDS = (int, float, str, bool, bytes, type(None), list, dict, tuple, set, frozenset, torch.Tensor, torch.Size)
KINDS += (np.ndarray, torch.Generator, np.random.Generator, random.Random, changing.Step)


def made(kind, **attributes):
    return {encoding.KIND: "object", "class": kind, "attributes": attributes}


def deletes_a_file(bait):
    return made("tempfile:_TemporaryFileCloser", file=1, delete=True, name=str(bait / "kept.txt"))


def deletes_a_folder(bait):
    return made("numpy.lib._datasource:DataSource", _istmpdest=True, _destpath=str(bait))


def imports_a_file(bait):
    """A closer that closes an image's parser, which loads its image, an entry point."""
    (bait / "evil.py").write_text(f"open({str(bait / 'done')!r}, 'w')")
    point = made("importlib.metadata:EntryPoint", name="x", value="bait.evil", group="x")
    parser = made("PIL.ImageFile:Parser", decoder=None, image=point, data=b"x")
    return made("tempfile:_TemporaryFileCloser", file=parser, delete=False, name="")


PAYLOADS = [deletes_a_file, deletes_a_folder, imports_a_file]
VERBS = {
    "predict": lambda run, data: ("predict", f"run={run}", f"images={IMAGES}"),
    "evaluate": lambda run, data: ("evaluate", f"run={run}", "outputs=outputs"),
    "export": lambda run, data: ("export", f"run={run}", "output=x.onnx"),
    "load": lambda run, data: ("evaluate", f"run={run}"),  # not reached
    "fork": lambda run, data: (
        "train",
        f"fork={run}@1",
        "run_dir=fork",
        "outputs=outputs",
        data[0],
        "trainer.max_epochs=2",
    ),
    "resume": lambda run, data: ("train", f"run_dir={run}", "outputs=outputs", *data, "trainer.max_epochs=3"),
}


def poison(run, value, names):
    """Let each checkpoint of a run hold a value, twice at each place: the second one lets go of the first."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        for mine in content["callbacks"]["RankState"]["processes"]:
            for name in names:
                entry = {"path": [["item", "module"], ["attribute", name]], "in_place": False, "value": value}
                mine["objects"] += [entry, entry]
                mine["set_up"] += [entry, entry]
        path.unlink()
        torch.save(content, path)


@pytest.mark.parametrize("verb", VERBS)
def test_no_command_makes_an_object(parent, data, tmp_path, verb):  # noqa: F811
    for payload in PAYLOADS:
        bait = tmp_path / "bait"
        bait.mkdir()
        (bait / "kept.txt").touch()
        run = tmp_path / "run"
        shutil.copytree(parent, run)
        poison(run, payload(bait), ("evil", "training"))
        before = sorted(path.name for path in bait.iterdir())

        def prepare(run=run):
            sys.path.insert(0, str(tmp_path))  # as the project's root is
            assert all((importlib.metadata.EntryPoint, PIL.ImageFile.Parser, np.lib.npyio.DataSource))  # imported
            if verb == "load":
                try:
                    assert leyden.load(run).network
                finally:
                    sys.exit(2)

        typed = VERBS[verb](run, data)
        code, output = call(*typed, directory=tmp_path, before=prepare)
        after = sorted(path.name for path in bait.glob("*") if path.name != "__pycache__")
        assert after == before, f"{payload.__name__}:\n{output}"
        assert code == (0 if verb in ("fork", "resume") else 2), output
        assert "Traceback" not in output or verb == "load"
        if verb in ("fork", "resume"):
            assert (
                output.count("exact resume is not guaranteed: module.evil (TypeError: a checkpoint may not hold")
                == 1
            )
        for path in (bait, run, tmp_path / "fork"):
            shutil.rmtree(path, ignore_errors=True)


def classes():
    """Every class that is imported here."""
    modules = [(name, each) for name, each in [*sys.modules.items()] if isinstance(each, types.ModuleType)]
    return sorted(
        {
            f"{name}:{key}"
            for name, module in modules
            for key, each in [*vars(module).items()]
            if issubclass(type(each), type)
        }
    )


def drawn(rng, names, depth=0):
    """A value, or what stands for an object of any class."""
    if depth > 3 or rng.random() < 0.2:
        return rng.choice([0, "x", None, b"x", 0.5, "/", torch.zeros(2)])
    within = [drawn(rng, names, depth + 1) for _ in range(rng.randrange(3))]
    kind = rng.choice(
        ["object", "named", "dict", "other", "state_dict", "generator", "array", "set", "tuple", "x", "list"]
    )
    if kind == "list":
        return within
    keys = [rng.choice(["name", "file", "delete", "_destpath", "__class__", "value", "a"]) for _ in within]
    items = dict(zip(keys, within, strict=True)) if kind == "dict" else within
    attributes, state = dict(zip(keys, within, strict=True)), rng.choice([{}, within, 0])
    return {
        encoding.KIND: kind,
        "class": rng.choice(names),
        "items": items,
        "attributes": attributes,
        "state": state,
    }


def kinds_within(value):
    if isinstance(value, dict):
        return {dict} | {kind for each in value.values() for kind in kinds_within(each)}
    if isinstance(value, list | tuple | set | frozenset):
        return {type(value)} | {kind for each in value for kind in kinds_within(each)}
    return {type(value)}


def test_nothing_but_plain_values_is_ever_made(seed, trials):
    rng, names = random.Random(seed), classes()
    for n in range(trials * 100):
        owner = types.SimpleNamespace(value=rng.choice([None, [1], {"a": 1}, torch.zeros(2), random.Random(0)]))
        state = ObjectState({"x": owner, "world": changing.World()})
        before = {**vars(owner)}
        path = [["item", "x"], ["attribute", rng.choice(["value", "new", "__class__", "__dict__"])]]
        state.restore([{"path": path, "in_place": rng.random() < 0.5, "value": drawn(rng, names)}])
        found = {kind for each in vars(owner).values() for kind in kinds_within(each)}
        assert found <= {*KINDS, *(type(each) for each in before.values())}, (
            f"FAULTS_SEED={seed}, trial {n}: {found}"
        )
        assert type(owner) is types.SimpleNamespace
