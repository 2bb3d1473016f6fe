"""A batch is whatever the data set's `collate_fn` makes of its samples."""

import pytest
import torch

from leyden.config.errors import UserError
from leyden.data.streamed import DatasetDataModule
from tests.conftest import assert_same_bits
from tests.data import folders
from tests.tasks.boxes import Boxes
from tests.training.test_start_exact import stopping

DETECTION = (
    *("data=dataset", "data.train._target_=tests.tasks.boxes.Boxes", "data.val_size=6", "data.batch_size=4"),
    *("data.eval_batch_size=4", "model._target_=tests.tasks.boxes.Corners", "~model.hidden_sizes"),
    *("~model.dropout", "task=own", "task._target_=tests.tasks.boxes.Detection", "optimizer=adam"),
    *("+task.metrics.iou._target_=torchmetrics.detection.IntersectionOverUnion", "trainer.log_every_n_steps=2"),
    *("objective.metric=val/iou", "objective.mode=max", "trainer.max_epochs=2", "test=false"),
    "callbacks.checkpoint.every_n_steps=4",
)


@pytest.fixture
def train(train):
    return lambda name, *arguments, code=0: train(name, *DETECTION, *arguments, code=code)


def test_boxes_in_images_of_any_size_are_learnt_and_resumed_to_the_same_bits(train, command):
    whole, *_ = train("whole", "data.num_workers=2")
    assert {*whole.result.stages["val"]} == {"val/loss", "val/iou"}
    assert {*whole.result.stages["train"]} == {"train/loss"}
    with stopping(9):
        train("stopped", "data.num_workers=2", code=1)
    resumed, *_ = train("stopped", "data.num_workers=0")
    assert_same_bits(whole.directory, resumed.directory)
    assert resumed.result.metrics == whole.result.metrics
    _, err = command("evaluate", f"run={whole.directory}", code=2)
    assert "DatasetDataModule has no test_dataloader" in err
    _, err = command("export", f"run={whole.directory}", code=2)
    assert "has no inputs(split, indices)" in err


@pytest.mark.slow(minutes=0.1)
@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_batches_without_a_sample_are_skipped_and_resumed_as_if_never_stopped(train, cli, tmp_path):
    gaps = ("data.train._target_=tests.tasks.boxes.Gaps", "data.num_workers=0")
    gaps = (*gaps, "callbacks.checkpoint.every_n_steps=1")
    whole, *_ = train("whole", *gaps)
    assert whole.result.optimizer_steps < 12
    stopped = 0
    for stop in (2, 6, 10):
        with stopping(stop):
            found, *_ = cli("train", f"run_dir={tmp_path / str(stop)}", *DETECTION, *gaps)
        stopped += found == 1  # no step has the number of a batch that is skipped
        resumed, *_ = train(str(stop), *gaps)
        assert resumed.result.metrics == whole.result.metrics
        assert resumed.result.best_epoch == whole.result.best_epoch
    assert stopped


def test_an_iterator_that_ends_in_a_step_is_no_end_of_the_data(train):
    run, _, err = train("a", "model._target_=tests.tasks.boxes.Exhausted", "data.num_workers=0", code=1)
    assert "StopIteration" in err
    assert "tests/tasks/boxes.py" in err
    assert run.result.status == "failed"


def test_each_process_has_something_to_collate():
    data = DatasetDataModule(train=Boxes(29), val=None, test=None, root="", **{**folders.SPLITS, "val_size": 5})
    data.setup("fit")
    assert data.inputs is None
    loader = data.loader("val", None, torch.device("cpu"), batch_size=4, rank=1, world_size=2)
    batches = iter(loader)
    assert isinstance(next(batches), tuple)
    with pytest.raises(UserError, match="the last batch has fewer samples than there are processes"):
        next(batches)
