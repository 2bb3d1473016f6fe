"""A checkpoint of a stranger that holds objects: no command makes one, so that nothing is deleted, imported or executed."""

import importlib.metadata
import os
import shutil
import sys
import tempfile

import pytest
import torch

from tests.exact.test_memory import Reduced, frozen
from tests.faults.commands import call

pytestmark = pytest.mark.faults


def executes(bait):
    return Reduced(os.mkdir, (str(bait / "done"),))


def deletes_a_file(bait):
    state = {"file": 1, "delete": True, "name": str(bait / "kept.txt")}
    return Reduced(tempfile._TemporaryFileCloser.__new__, (tempfile._TemporaryFileCloser,), state)


def imports_a_file(bait):
    (bait / "evil.py").write_text(f"open({str(bait / 'done')!r}, 'w')")
    return Reduced(importlib.import_module, ("bait.evil",))


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
