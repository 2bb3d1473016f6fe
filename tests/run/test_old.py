"""A run directory made before the house was rebuilt is read, gone on with, evaluated and summarised."""

import shutil
from pathlib import Path

import pytest
import torch

from leyden.report.ranking import merge
from leyden.report.records import read_records
from leyden.run.directory import Run
from tests.conftest import weights

OLD = Path(__file__).parent / "old"
# What it was started with, by the program of then.
TYPED = ("data.val_size=4900", "data.batch_size=50", "model.hidden_sizes=[2]", "model.dropout=0.2", "trainer=cpu")
TYPED = (*TYPED, "trainer.log_every_n_steps=2", "test=false", "callbacks=bare")
TYPED = (*TYPED, "data=mnist", "model=mlp", "optimizer=keras_rmsprop", "seed=0")  # the defaults of then


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    return Run(tmp_path / "old")


@pytest.fixture
def train(cli, small_root, old):
    def train(*more):
        arguments = (*TYPED, f"data.root={small_root}", f"run_dir={old.directory}")
        return cli("train", *arguments, *more)

    return train


def test_its_result_comes_back_at_once(train, old):
    code, out, err = train("trainer.max_epochs=1")
    assert code == 0, err
    assert "0.0971" in out
    assert len(old.starts) == 1
    assert old.result.objectives[0].value == pytest.approx(0.0971, abs=1e-4)


def test_it_is_gone_on_with_as_the_program_of_then_would_have(train, old):
    code, out, err = train("trainer.max_epochs=2")
    assert code == 0, err
    assert "step 6" in out
    assert old.result.optimizer_steps == 12
    assert (old.directory / "result_1.json").exists()
    expected = torch.load(OLD.parent / "old_two_epochs.pt", weights_only=True)
    found = weights(old.directory)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)  # made on another machine
    # What it is kept as now has the names of now.
    assert "leyden.models" not in (old.directory / "config.yaml").read_text()


def test_a_key_that_it_does_not_have_refuses_it_only_where_it_is_typed(train, old):
    config = (old.directory / "config.yaml").read_text()
    (old.directory / "config.yaml").write_text(
        config.replace("compile: false\n", "").replace("  num_nodes: 1\n", "")
    )
    code, _, err = train("trainer.max_epochs=1", "trainer.num_nodes=2")
    assert code == 2
    assert "trainer.num_nodes: absent there, 2 here" in err
    code, _, err = train("trainer.max_epochs=2")
    assert code == 0, err
    assert old.config["compile"] is False


def test_it_is_evaluated_and_predicts(cli, small_root, old):
    code, out, err = cli("evaluate", f"run={old.directory}", f"data_root={small_root}")
    assert code == 0, err
    assert "test/acc" in out
    images = Path(__file__).parents[2] / "docs" / "images"
    code, out, err = cli("predict", f"run={old.directory}", f"images={images}")
    assert code == 0, err


def test_it_is_summarised(old):
    (row,) = merge(read_records(old.directory.parent, lambda ids: {}), ["seed"])
    assert row.cells(["val/acc"], ["seed"])["objective"] == pytest.approx(0.0971, abs=1e-4)
    assert row.records[0].choices["model.dropout"] == 0.2


def test_another_choice_is_refused(train, old):
    code, _, err = train("trainer.max_epochs=1", "optimizer.lr=0.01")
    assert code == 2
    assert "optimizer.lr: 0.001 there, 0.01 here" in err
