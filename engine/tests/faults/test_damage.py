"""Every file of a run, of its data and of a sweep is damaged: each command goes on rightly, or refuses in a line."""

import functools
import itertools
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from leyden.run.directory import Run
from leyden.run.result import Result
from tests.conftest import assert_same_bits
from tests.faults.commands import at_operation, at_step, call, ends_clearly, in_forks, is_clean

pytestmark = pytest.mark.faults

SHAPES = ["[]", "{}", "null", '"x"', '{"status": 1}', "[[1]]", '{"name": []}', "0"]
IMAGES = Path(__file__).parents[2] / "docs" / "images"
LONGER = "trainer.max_epochs=3"


def emptied(path, rng):
    path.write_bytes(b"")


def halved(path, rng):
    os.truncate(path, path.stat().st_size // 2)


def flipped(path, rng):
    content = bytearray(path.read_bytes()) or bytearray(1)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def appended(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 30, 5000])))


def reshaped(path, rng):
    path.write_text(rng.choice(SHAPES))


def removed(path, rng):
    path.unlink()


def filed(path, rng):
    shutil.rmtree(path)
    path.write_bytes(b"")


DAMAGES = [emptied, halved, flipped, appended, reshaped, removed]


def snapshot(folder):
    """Every file below a folder with its content; a folder with nothing."""
    paths = (path for path in folder.rglob("*") if ".lock" not in str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def difference(before, after):
    """Names of the files that are not as before."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0))


class Trial:
    """A folder with a copy of a run in it, that is damaged, and commands that are given it."""

    def __init__(self, tmp_path, arguments, seed):
        self.folder, self.arguments, self.seed, self.failures = tmp_path / "trial", arguments, seed, []
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "kept").write_text("kept")

    def run(self, begun, name, damage, check):
        """Copy, damage, and check; what is wrong is kept for the end."""
        rng = random.Random(f"{self.seed} {begun.name} {name} {damage.__name__}")
        shutil.copytree(begun, self.folder)
        try:
            damage(self.folder / name, rng)
            check()
        except Exception as error:
            what = f"FAULTS_SEED={self.seed} {begun.name}/{name} {damage.__name__}"
            self.failures.append(f"{what}: {type(error).__name__}: {error}"[:3000])
        finally:
            shutil.rmtree(self.folder)

    def call(self, verb, *arguments):
        code, output = call(verb, *arguments, directory=self.outside, cwd=self.outside, before=in_forks)
        assert is_clean(code, output), f"{verb} {' '.join(arguments)}: {code}\n{output}"
        assert {path.name for path in self.outside.iterdir()} <= {"kept", "output.txt"}, verb
        return code, output

    def train(self, *more):
        return self.call(
            "train", f"run_dir={self.folder / 'run'}", f"outputs={self.folder}", *self.arguments, *more
        )

    def end(self, num):
        print(f"{num} trials, {len(self.failures)} failed")
        assert not self.failures, f"{len(self.failures)} of {num}\n" + "\n\n".join(self.failures)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, data):
    """Folders with a run in each: whole, stopped within its second epoch, and one that went on for a third."""
    folder = tmp_path_factory.mktemp("begun")
    stop = at_operation(folder / "stopped" / "run", 130, lambda: os.kill(os.getpid(), signal.SIGKILL))
    for name, before, code, more in (
        ("whole", None, 0, ()),
        ("stopped", stop, -9, ()),
        ("longer", None, 0, (LONGER,)),
    ):
        place = folder / name
        place.mkdir()
        arguments = (f"run_dir={place / 'run'}", f"outputs={place}", *data, *more)
        ended, output = call("train", *arguments, directory=folder, before=before)
        assert ended == code, output
    assert (folder / "stopped" / "run" / "checkpoints" / "best.ckpt").exists()
    assert Run(folder / "stopped" / "run").result is None
    return folder


def drawn(begun, names, trials, seed):
    """Which files of which folders are damaged how: all that there are, or so many of them."""
    files = [
        (begun / name, str(path.relative_to(begun / name)))
        for name in names
        for path in sorted((begun / name).rglob("*"))
        if path.is_file() and ".lock" not in str(path.relative_to(begun))
    ]
    every = [*itertools.product(files, DAMAGES), *(((begun / name, "run/checkpoints"), filed) for name in names)]
    return random.Random(seed).sample(every, min(trials, len(every)))


def test_a_damaged_run_is_used_and_goes_on_or_is_refused(tmp_path, begun, data, trials, seed):
    trial = Trial(tmp_path, data, seed)

    def check():
        before = snapshot(trial.folder / "run")
        trial.call("evaluate", f"run={trial.folder}/run", f"outputs={trial.folder}")
        trial.call("predict", f"run={trial.folder}/run", f"images={IMAGES}")
        code, output = call("summarize", str(trial.folder), directory=trial.outside)
        assert code in (0, 2), output
        assert "Traceback" not in output, output
        assert not difference(before, snapshot(trial.folder / "run"))
        before = snapshot(trial.folder)
        for more, name in ((), "whole"), ((LONGER,), "longer"):
            code, output = trial.train(*more)
            if code:
                changed = difference(before, snapshot(trial.folder))
                assert not changed, f"{output}refused, and has changed {changed}"
            elif more or "epoch 2/2" in output:  # else the result, which it has, is all that it needs
                assert_same_bits(begun / name / "run", trial.folder / "run")
            before = snapshot(trial.folder)

    chosen = drawn(begun, ("whole", "stopped"), trials // 2, seed)
    for (folder, name), damage in chosen:
        trial.run(folder, name, damage, check)
    trial.end(len(chosen))


VALUES = (
    None,
    -1,
    10**30,
    float("nan"),
    "x",
    [],
    {},
    b"x",
    True,
    torch.zeros(3),
    torch.zeros(2, 2, dtype=torch.int64),
)


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


def test_a_checkpoint_that_was_tampered_with_costs_no_result(tmp_path, begun, data, trials, seed):
    """What no check sees beforehand ends in a line, too, and the run is what it was: finished, with its result."""
    trial = Trial(tmp_path, data, seed)
    kept = ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    run = trial.folder / "run"

    def check():
        for verb in ("evaluate", "predict"):
            images = [f"images={IMAGES}"] if verb == "predict" else [f"outputs={trial.folder}"]
            trial.call(verb, f"run={run}", *images)
        before, result = {name: (run / name).read_bytes() for name in kept}, Run(run).result
        arguments = (f"run_dir={run}", f"outputs={trial.folder}", *data, LONGER)
        trained = trial.folder / "trained"
        code, output = call("train", *arguments, directory=trial.outside, before=at_step(None, trained.touch))
        has_trained = (
            trained.exists()
        )  # then it is a run that failed; the result of before is in the start of before
        assert ends_clearly(code, output) or has_trained, output
        if code:
            old = Result.from_dict(Run(run).starts[0]["result"]) if has_trained else Run(run).result
            assert old == result, output
        if code and not has_trained:
            assert {name: (run / name).read_bytes() for name in kept} == before, output

    for number in range(trials):
        name = ("last", "best")[number % 2]
        damage = functools.partial(mutated)
        damage.__name__ = f"mutated {number}"  # another draw each time
        trial.run(begun / "whole", f"run/checkpoints/{name}.ckpt", damage, check)
    trial.end(trials)


def test_damaged_data_are_refused(tmp_path, small_files, data, trials, seed):
    source = tmp_path / "source"
    shutil.copytree(small_files / "MNIST", source / "MNIST")
    arguments = [argument for argument in data if not argument.startswith("data.root")]
    trial = Trial(tmp_path, (*arguments, "data.download=false"), seed)

    def check():
        code, output = trial.train(f"data.root={trial.folder}", "trainer.max_epochs=1", "resume=never")
        assert code == 2, output
        assert not (trial.folder / "run").exists(), output

    every = list(itertools.product(sorted((source / "MNIST" / "raw").iterdir()), DAMAGES))
    num = min(max(6, trials // 5), len(every))
    for path, damage in random.Random(seed).sample(every, num):
        trial.run(source, str(path.relative_to(source)), damage, check)
    trial.end(num)


def test_a_damaged_sweep_goes_on_or_is_refused(tmp_path, data, trials, seed):
    source = tmp_path / "source"
    trial = Trial(tmp_path, data, seed)
    sweeps = {
        "grid": ("seed=0,1",),
        "search": ("sweep=tpe", "hydra.sweeper.num_trials=2", "optimizer.lr=interval(0.001,0.002)"),
    }

    def arguments(name, folder):
        return ("-m", *data, *sweeps[name], f"sweep_name={name}", f"outputs={folder}", "callbacks=bare")

    for name in sweeps:
        code, output = trial.call("train", *arguments(name, source))
        assert code == 0, output
    chosen = [
        (name, str(path.relative_to(source)), damage)
        for name in sweeps
        for path in sorted((source / "sweeps" / name).rglob("*"))
        if path.is_file() and path.suffix and "locks" not in str(path.parent) and "tfevents" not in path.name
        for damage in DAMAGES
    ]
    num = min(max(6, trials // 5), len(chosen))
    for name, file, damage in random.Random(seed).sample(chosen, num):
        trial.run(
            source,
            file,
            damage,
            lambda name=name: trial.call("train", *arguments(name, trial.folder)),
        )
    trial.end(num)
