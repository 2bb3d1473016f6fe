import os
import random
import time

import pytest

from leyden.run.directory import Run
from tests.conftest import assert_same_bits
from tests.data import small
from tests.faults.commands import call, on_operations, within


@pytest.fixture(scope="session")
def seed():
    """Of what is drawn; FAULTS_SEED draws the same again."""
    return int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture
def rng(seed):
    print(f"FAULTS_SEED={seed}")  # which a failure shows
    return random.Random(seed)


@pytest.fixture(scope="session")
def trials():
    """How much of a family is tried; FAULTS_N=100000 is all of it."""
    return int(os.environ.get("FAULTS_N", "40"))


@pytest.fixture(scope="session")
def data(small_files):
    """Overrides of a training that takes a second: two epochs of six steps, everything on."""
    patch = pytest.MonkeyPatch()
    small.expect(small_files, patch)
    few = (
        "data.val_size=4900",
        "data.batch_size=50",
        "model.hidden_sizes=[4]",
        "model.dropout=0.2",
        "trainer=cpu",
    )
    often = ("trainer.log_every_n_steps=2", "callbacks.checkpoint.every_n_steps=2")
    yield (f"data.root={small_files}", *few, *often, "trainer.max_epochs=2")
    patch.undo()


class Whole:
    """A run that nothing happened to, its number of operations on files, and how long it took."""

    def __init__(self, folder, data):
        self.data = data
        self.run = folder / "run"
        began = time.monotonic()
        counted = folder / "operations"
        count = on_operations(self.run, lambda number, name: counted.write_text(str(number)))
        code, output = call("train", *self.arguments(folder), directory=folder, before=count)
        assert code == 0, output
        self.num_operations = int(counted.read_text())
        self.seconds = time.monotonic() - began

    def arguments(self, folder):
        return (*within(folder), *self.data)

    def resume(self, folder, told, *, output):
        """Train a run to its end, to the same bits."""
        code, printed = call("train", *self.arguments(folder), directory=output)
        assert code == 0, f"{told}\nThen: {printed}"
        assert Run(folder / "run").result.status == "finished", told
        assert_same_bits(self.run, folder / "run")


@pytest.fixture(scope="session")
def whole(tmp_path_factory, data):
    return Whole(tmp_path_factory.mktemp("whole"), data)
