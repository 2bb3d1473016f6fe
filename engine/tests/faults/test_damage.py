"""Every file of a run and of a sweep is damaged: each command goes on rightly, or refuses in a line."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from leyden.run.directory import Run
from leyden.run.result import Result
from tests.conftest import assert_same_bits
from tests.faults.commands import at_step, call, ends_clearly, in_forks, is_clean

pytestmark = pytest.mark.faults

SHAPES = ["[]", "{}", "null", '"x"', '{"status": 1}', "[[1]]", '{"name": []}', "0"]
IMAGES = Path(__file__).parents[2] / "docs" / "images"
LONGER = "trainer.max_epochs=3"


def flipped(path, rng):
    content = bytearray(path.read_bytes()) or bytearray(1)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def filed(path, rng):
    shutil.rmtree(path)
    path.write_bytes(b"")


DAMAGES = {
    "emptied": lambda path, rng: path.write_bytes(b""),
    "halved": lambda path, rng: os.truncate(path, path.stat().st_size // 2),
    "flipped": flipped,
    "appended": lambda path, rng: path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 30, 5000]))),
    "reshaped": lambda path, rng: path.write_text(rng.choice(SHAPES)),
    "removed": lambda path, rng: path.unlink(),
    "filed": filed,
}
OF_FILES = [*DAMAGES][:-1]


def snapshot(folder):
    """Every file below a folder with its content; a folder with nothing."""
    paths = (path for path in folder.rglob("*") if ".lock" not in str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def difference(before, after):
    return sorted(name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0))


class Place:
    """A folder with a copy of what is damaged, and commands that are given it."""

    def __init__(self, tmp_path, trial, seed):
        self.folder, self.outside, self.trial, self.seed = tmp_path / "trial", tmp_path / "outside", trial, seed
        self.outside.mkdir()
        (self.outside / "kept").write_text("kept")

    @contextlib.contextmanager
    def damaged(self, begun, name, how, damage=None):
        """Copy a folder, and damage a file in the copy, which is there within the context."""
        with self.trial(f"{begun.name}/{name} {how}"):
            shutil.copytree(begun, self.folder)
            try:
                rng = random.Random(f"{self.seed} {begun.name} {name} {how}")
                (damage or DAMAGES[how])(self.folder / name, rng)
                yield
            finally:
                shutil.rmtree(self.folder)

    def call(self, verb, *arguments):
        code, output = call(verb, *arguments, directory=self.outside, cwd=self.outside, before=in_forks)
        assert is_clean(code, output), f"{verb} {' '.join(arguments)}: {code}\n{output}"
        assert {path.name for path in self.outside.iterdir()} <= {"kept", "output.txt"}, verb
        return code, output

    @property
    def typed(self):
        return (f"run_dir={self.folder / 'run'}", f"outputs={self.folder}")


@pytest.fixture
def place(tmp_path, trial, seed):
    return Place(tmp_path, trial, seed)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, data):
    """Folders with a run in each: whole, stopped within its second epoch, and one that went on for a third."""
    folder = tmp_path_factory.mktemp("begun")
    stop = at_step(9, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for name, code, before, *more in (("whole", 0, None), ("stopped", -9, stop), ("longer", 0, None, LONGER)):
        (place := folder / name).mkdir()
        arguments = (f"run_dir={place / 'run'}", f"outputs={place}", *data, *more)
        ended, output = call("train", *arguments, directory=folder, before=before)
        assert ended == code, output
    assert (folder / "stopped" / "run" / "checkpoints" / "best.ckpt").exists()
    assert Run(folder / "stopped" / "run").result is None
    return folder


def files_in(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".lock" not in str(path))
    return [(folder, str(path.relative_to(folder))) for path in files]


def test_a_damaged_run_is_used_and_goes_on_or_is_refused(place, begun, data, trials, rng):
    folders = [begun / "whole", begun / "stopped"]
    every = [*itertools.product([file for folder in folders for file in files_in(folder)], OF_FILES)]
    every += [((folder, "run/checkpoints"), "filed") for folder in folders]
    for (folder, name), how in rng.sample(every, min(trials // 2, len(every))):
        with place.damaged(folder, name, how):
            before = snapshot(place.folder / "run")
            place.call("evaluate", f"run={place.folder}/run", f"outputs={place.folder}")
            place.call("predict", f"run={place.folder}/run", f"images={IMAGES}")
            code, output = call("summarize", str(place.folder), directory=place.outside)
            assert code in (0, 2), output
            assert "Traceback" not in output, output
            assert not difference(before, snapshot(place.folder / "run"))
            before = snapshot(place.folder)
            for more, name in ((), "whole"), ((LONGER,), "longer"):
                code, output = place.call("train", *place.typed, *data, *more)
                if code:
                    changed = difference(before, snapshot(place.folder))
                    assert not changed, f"{output}refused, and has changed {changed}"
                elif more or "epoch 2/2" in output:  # else the result, which it has, is all that it needs
                    assert_same_bits(begun / name / "run", place.folder / "run")
                before = snapshot(place.folder)


VALUES = (None, -1, 10**30, float("nan"), "x", [], {}, b"x", True)
VALUES = (*VALUES, torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64))


def mutated(path, rng):
    """One value anywhere in the checkpoint is another one, or gone: who made it knew its format."""
    content = torch.load(path, weights_only=True)
    places = []

    def walk(part):
        for key in list(part) if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(content)
    part, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
    else:
        part[key] = rng.choice(VALUES)
    torch.save(content, path)


def test_a_checkpoint_that_was_tampered_with_costs_no_result(place, begun, data, trials):
    """What no check sees beforehand ends in a line, too, and the run is what it was: finished, with its result."""
    run, trained = place.folder / "run", place.folder / "trained"
    kept = ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    for number in range(trials):
        name = f"run/checkpoints/{('last', 'best')[number % 2]}.ckpt"
        with place.damaged(begun / "whole", name, f"mutated {number}", mutated):
            place.call("evaluate", f"run={run}", f"outputs={place.folder}")
            place.call("predict", f"run={run}", f"images={IMAGES}")
            before, result = {name: (run / name).read_bytes() for name in kept}, Run(run).result
            arguments, touch = (*place.typed, *data, LONGER), at_step(None, trained.touch)
            code, output = call("train", *arguments, directory=place.outside, before=touch)
            # A run that failed while it trained has the result of before in the start of before.
            has_trained = trained.exists()
            assert ends_clearly(code, output) or has_trained, output
            if code:
                old = Result.from_dict(Run(run).starts[0]["result"]) if has_trained else Run(run).result
                assert old == result, output
            if code and not has_trained:
                assert {name: (run / name).read_bytes() for name in kept} == before, output


SEARCH = ("sweep=tpe", "hydra.sweeper.num_trials=2", "optimizer.lr=interval(0.001,0.002)")
SWEEPS = {"grid": ("seed=0,1",), "search": SEARCH}


@pytest.mark.nightly  # a damaged run is, by day
def test_a_damaged_sweep_goes_on_or_is_refused(tmp_path, place, data, trials, rng):
    def sweep(name, folder):
        more = (f"sweep_name={name}", f"outputs={folder}", "callbacks=bare")
        return place.call("train", "-m", *data, *SWEEPS[name], *more)

    source, chosen = tmp_path / "source", []
    for name in SWEEPS:
        code, output = sweep(name, source)
        assert code == 0, output
        files = [Path(file) for _, file in files_in(source) if file.startswith(f"sweeps/{name}/")]
        files = [file for file in files if file.suffix and not re.search("/locks/|tfevents", str(file))]
        chosen += itertools.product([name], files, OF_FILES)
    for name, file, how in rng.sample(chosen, min(max(3, trials // 5), len(chosen))):
        with place.damaged(source, str(file), how):
            sweep(name, place.folder)
