"""Every file of a run is damaged: each command goes on rightly, or refuses in a line."""

import contextlib
import os
import random
import shutil
import signal

import pytest
import torch

from leyden.run.directory import Run
from leyden.run.result import Result
from tests import ENGINE, records
from tests.conftest import assert_same_bits
from tests.faults.commands import at_step, call, ends_clearly, is_clean, within

pytestmark = pytest.mark.faults

SHAPES = ["[]", "{}", "null", '"x"', '{"status": 1}', "[[1]]", '{"name": []}', "0"]
IMAGES = ENGINE / "docs" / "images"
LONGER = "trainer.max_epochs=3"


def flipped(path, rng):
    content = bytearray(path.read_bytes()) or bytearray(1)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def appended(path, rng):
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.choice([1, 30, 5000])))


def filed(path, rng):
    shutil.rmtree(path)
    path.write_bytes(b"")


DAMAGES = {
    "emptied": lambda path, rng: path.write_bytes(b""),
    "halved": lambda path, rng: os.truncate(path, path.stat().st_size // 2),
    "flipped": flipped,
    "appended": appended,
    "reshaped": lambda path, rng: path.write_text(rng.choice(SHAPES)),
    "removed": lambda path, rng: path.unlink(),
    "filed": filed,
}
OF_FILES = [*DAMAGES][:-1]


def snapshot(folder):
    """Every file below a folder with its content; a folder with nothing."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if ".lock" not in name:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def difference(before, after):
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name, 0) != after.get(name, 0))


class Place:
    """A folder with a copy of a run that is damaged, and commands that are given it."""

    def __init__(self, tmp_path, seed):
        self.folder = tmp_path / "trial"
        self.outside = tmp_path / "outside"
        self.seed = seed
        self.run = self.folder / "run"
        self.typed = within(self.folder)
        self.outside.mkdir()
        (self.outside / "kept").write_text("kept")

    @contextlib.contextmanager
    def damaged(self, begun, name, how, damage=None):
        """Copy a folder, and damage a file in the copy, which is there within the context."""
        what = f"{begun.name} {name} {how}"
        print(what)
        shutil.copytree(begun, self.folder)
        (damage or DAMAGES[how])(self.folder / name, random.Random(f"{self.seed} {what}"))
        yield
        shutil.rmtree(self.folder)

    def call(self, verb, *arguments):
        code, output = call(verb, *arguments, directory=self.outside)
        assert is_clean(code, output), f"{verb} {' '.join(arguments)}: {code}\n{output}"
        assert {path.name for path in self.outside.iterdir()} <= {"kept", "output.txt"}, verb
        return code, output

    def use(self):
        self.call("evaluate", f"run={self.run}", f"outputs={self.folder}")
        self.call("predict", f"run={self.run}", f"images={IMAGES}")


@pytest.fixture
def place(tmp_path, seed):
    return Place(tmp_path, seed)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, whole, data):
    """Folders with a run in each: whole, stopped within its second epoch, and one that went on for a third."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(
        whole.run.parent,
        folder / "whole",
        ignore=shutil.ignore_patterns("output.txt", "operations"),
    )
    stop = at_step(9, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for name, code, before, *more in (
        ("stopped", -9, stop),
        ("longer", 0, None, LONGER),
    ):
        typed = (*within(folder / name), *data, *more)
        ended, output = call("train", *typed, directory=folder, before=before)
        assert ended == code, output
    assert (folder / "stopped" / "run" / "checkpoints" / "best.ckpt").exists()
    assert Run(folder / "stopped" / "run").result is None
    return folder


def test_a_damaged_run_is_used_and_goes_on_or_is_refused(place, begun, data, trials, rng):
    every = []
    for folder in (begun / "whole", begun / "stopped"):
        for name, content in snapshot(folder).items():
            if content is not None:
                every += [(folder, name, how) for how in OF_FILES]
        every.append((folder, "run/checkpoints", "filed"))
    for folder, name, how in rng.sample(every, min(trials // 2, len(every))):
        with place.damaged(folder, name, how):
            before = snapshot(place.run)
            place.use()
            code, output = call("summarize", str(place.folder), directory=place.outside)
            assert code in (0, 2), output
            assert "Traceback" not in output, output
            assert not difference(before, snapshot(place.run))
            before = snapshot(place.folder)
            for more, name in ((), "whole"), ((LONGER,), "longer"):
                code, output = place.call("train", *place.typed, *data, *more)
                if code:
                    changed = difference(before, snapshot(place.folder))
                    assert not changed, f"{output}refused, and has changed {changed}"
                elif (
                    more or "epoch 2/2" in output
                ):  # else the result, which it has, is all that it needs
                    assert_same_bits(begun / name / "run", place.run)
                before = snapshot(place.folder)


OF_TORCH = (torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64))
VALUES = (None, -1, 10**30, float("nan"), "x", [], {}, b"x", True, *OF_TORCH)


def mutated(path, rng):
    """One value anywhere in the checkpoint is another one, or gone: who made it knew its format."""
    content = torch.load(path, weights_only=True)

    def places(part):
        keys = part if isinstance(part, dict) else range(len(part))
        for key in [*keys]:
            yield part, key
            if isinstance(part[key], dict | list):
                yield from places(part[key])

    part, key = rng.choice([*places(content)])
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
    else:
        part[key] = rng.choice(VALUES)
    torch.save(content, path)
    records.put(path.parent.parent)  # which has no hash of it, as that of a killed run


def test_a_checkpoint_that_was_tampered_with_costs_no_result(place, begun, data, trials):
    """What no check sees beforehand ends in a line, too, and the run is what it was: finished, with its result."""
    trained = place.folder / "trained"
    kept = ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    files = lambda: {name: (place.run / name).read_bytes() for name in kept}  # noqa: E731
    for number in range(trials):
        name = f"run/checkpoints/{('last', 'best')[number % 2]}.ckpt"
        with place.damaged(begun / "whole", name, f"mutated {number}", mutated):
            place.use()
            before = files()
            result = Run(place.run).result
            touch = at_step(None, trained.touch)
            code, output = call(
                "train", *place.typed, *data, LONGER, directory=place.outside, before=touch
            )
            # A run that failed while it trained has the result of before in the start of before.
            has_trained = trained.exists()
            assert ends_clearly(code, output) or has_trained, output
            if code and has_trained:
                assert Result.from_dict(Run(place.run).starts[0]["result"]) == result, output
            elif code:
                assert Run(place.run).result == result, output
                assert files() == before, output
