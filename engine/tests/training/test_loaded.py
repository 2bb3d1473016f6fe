"""A trained run in a notebook: its network, data, metrics and curves, without Hydra."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import leyden
from leyden.config.errors import UserError
from leyden.exact import random_state
from leyden.exact.digest import digest_of_content
from leyden.exact.random_state import random_states
from tests.conftest import QUICK


def test_a_run_is_loaded_with_all_that_a_notebook_needs(train, tmp_path):
    run, *_ = train("a", *QUICK, "trainer.max_epochs=2", "trainer.limit_val_batches=1.0")
    found = leyden.load(tmp_path / "a")
    assert found.metrics == run.result.metrics
    assert found.config["model"]["hidden_sizes"] == [16]
    steps, values = zip(*found.curves["val/acc"], strict=True)
    assert steps == (9, 19)
    assert max(values) == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert not found.module.training
    batches = [found.module.transfer_batch_to_device(batch, "cpu", 0) for batch in found.data.val_dataloader()]
    hits = [(found.network(images).argmax(1) == labels).float() for images, labels in batches]
    assert torch.cat(hits).mean().item() == pytest.approx(found.metrics["val/acc"], abs=1e-6)
    assert leyden.load(tmp_path / "a", "last").network is not found.network


def test_loading_leaves_random_numbers_as_they_are(train, tmp_path):
    random_state._entropy.set("")  # as a test before may have left it
    own = np.random.bit_generator.randbits
    train("a", *QUICK, "trainer.max_epochs=1")
    assert np.random.bit_generator.randbits is own  # nor does training keep it
    before, drawn = digest_of_content(random_states()), []
    for _ in range(2):
        found = leyden.load(tmp_path / "a")
        assert found.network is not None
        assert found.data is not None
        assert np.random.bit_generator.randbits is own
        assert digest_of_content(random_states()) == before
        drawn.append(np.random.default_rng().random())
    assert drawn[0] != drawn[1]


def test_runs_are_loaded_as_they_are_listed(train, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        train(f"runs/{name}", *QUICK, "trainer.max_epochs=1", f"seed={seed}")
    found = leyden.load_runs(tmp_path / "runs", where="seed > 0")
    assert [each.directory.name for each in found] == ["b"]
    best = max(run.metrics["val/acc"] for run in leyden.load_runs(tmp_path / "runs"))
    assert leyden.load_runs(tmp_path / "runs", sort="-val/acc")[0].metrics["val/acc"] == best
    with pytest.raises(UserError, match="there is no run"):
        leyden.load_runs(tmp_path / "nothing")


def test_the_package_itself_imports_nothing_heavy_and_names_what_it_has():
    code = "import sys, leyden; assert not {'torch', 'hydra'} & {*sys.modules}; leyden.lod"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AttributeError: module 'leyden' has no attribute 'lod'" in done.stderr
