import os
import random

import pytest

from tests.data import small


@pytest.fixture(scope="session")
def seed():
    """Of what is drawn; FAULTS_SEED draws the same again."""
    return int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture(scope="session")
def trials():
    """How much of a family is tried; FAULTS_N=100000 is all of it."""
    return int(os.environ.get("FAULTS_N", "40"))


@pytest.fixture(scope="session")
def data(small_files):
    """Overrides of a training that takes a second: two epochs of six steps, everything on."""
    patch = pytest.MonkeyPatch()
    small.expect(small_files, patch)
    yield (
        f"data.root={small_files}",
        "data.val_size=4900",
        "data.batch_size=50",
        "model.hidden_sizes=[4]",
        "model.dropout=0.2",
        "trainer=cpu",
        "trainer.log_every_n_steps=2",
        "callbacks.checkpoint.every_n_steps=2",
        "trainer.max_epochs=2",
    )
    patch.undo()
