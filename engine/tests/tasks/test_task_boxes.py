"""Detection as somebody writes it: images of any size, a list of boxes for each, and a batch is what `collate_fn` makes of its samples."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from leyden.base.errors import UserError
from leyden.data.streamed import DatasetDataModule
from leyden.tasks import Outcome, Task
from tests.conftest import assert_same_bits
from tests.data import folders
from tests.training.test_start_exact import stopping


class Boxes(Dataset[Any]):
    """Noise with one bright rectangle; the noise is drawn from `torch`, as an augmentation would."""

    classes = ("bright",)

    def __init__(self, num: int = 30, has_gaps: bool = False):
        self.num = num
        self.has_gaps = has_gaps

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        draw = random.Random(index)
        height = draw.randint(20, 30)
        width = draw.randint(20, 30)
        x = draw.randint(0, width - 10)
        y = draw.randint(0, height - 10)
        image = torch.rand(1, height, width) / 2
        image[:, y : y + 10, x : x + 10] = 1
        return image, {
            "boxes": torch.tensor([[x, y, x + 10.0, y + 10.0]]),
            "labels": torch.tensor([0]),
        }

    def collate_fn(self, samples):
        if self.has_gaps and samples[0][1]["boxes"][0, 0] > 12:
            return None  # a batch has no good sample: then there is none, as is often written
        return tuple(zip(*samples, strict=True))


class Corners(nn.Module):
    """The four corners of a box from an image of any size; in training its loss, otherwise boxes."""

    def __init__(self, *, num_classes: int):
        super().__init__()
        assert num_classes == 1
        pooled = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        self.layers = nn.Sequential(*pooled, nn.Dropout(0.2), nn.Linear(64, 4))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]):
        boxes_N4 = torch.cat([30 * self.layers(image[None]) for image in images])
        if self.training:
            true_N4 = torch.cat([each["boxes"] for each in targets])
            return {"corners": nn.functional.l1_loss(boxes_N4, true_N4)}
        return [{"boxes": box[None], "labels": torch.tensor([0])} for box in boxes_N4]


class Detection(Task):
    without_metrics = ("train",)

    def step(self, batch):
        outputs = self.network(*batch)
        if isinstance(outputs, dict):
            return Outcome(sum(outputs.values(), torch.tensor(0.0)), None, batch[1])
        return Outcome(torch.tensor(0.0), outputs, batch[1])


DETECTION = f"""
data=dataset data.train._target_={__name__}.Boxes data.val_size=6 data.batch_size=4 data.eval_batch_size=4 optimizer=adam
model._target_={__name__}.Corners ~model.hidden_sizes ~model.dropout task=own task._target_={__name__}.Detection
+task.metrics.iou._target_=torchmetrics.detection.IntersectionOverUnion objective.metric=val/iou objective.mode=max
trainer.max_epochs=2 trainer.log_every_n_steps=2 callbacks.checkpoint.every_n_steps=4 test=false
""".split()


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
    for verb, lacks in (
        ("evaluate", "DatasetDataModule has no test_dataloader"),
        ("export", "has no inputs(split,"),
    ):
        _, err = command(verb, f"run={whole.directory}", code=2)
        assert lacks in err


@pytest.mark.slow(minutes=0.1)
@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_batches_without_a_sample_are_skipped_and_resumed_as_if_never_stopped(train, cli, tmp_path):
    gaps = (
        "+data.train.has_gaps=true",
        "data.num_workers=0",
        "callbacks.checkpoint.every_n_steps=1",
    )
    whole, *_ = train("whole", *gaps)
    assert whole.result.optimizer_steps < 12
    codes = []
    for stop in (2, 6, 10):
        with stopping(stop):
            code, *_ = cli("train", f"run_dir={tmp_path / str(stop)}", *DETECTION, *gaps)
        codes.append(code)
        resumed, *_ = train(str(stop), *gaps)
        assert resumed.result.metrics == whole.result.metrics
        assert resumed.result.best_epoch == whole.result.best_epoch
    assert 1 in codes  # no step has the number of a batch that is skipped


def test_an_iterator_that_ends_in_a_step_is_no_end_of_the_data(train, monkeypatch):
    monkeypatch.setattr(Detection, "training_step", lambda *_: next(iter([])))
    run, _, err = train("a", "data.num_workers=0", code=1)
    assert "StopIteration" in err
    assert "tests/tasks/test_task_boxes.py" in err
    assert run.result.status == "failed"


def test_each_process_has_something_to_collate():
    options = folders.SPLITS | {"val_size": 5}
    data = DatasetDataModule(train=Boxes(29), val=None, test=None, root="", **options)
    data.setup("fit")
    assert data.inputs is None
    cpu = torch.device("cpu")
    batches = iter(data.loader("val", None, cpu, batch_size=4, rank=1, world_size=2))
    assert isinstance(next(batches), tuple)
    too_few = "the last batch has fewer samples than there are processes"
    with pytest.raises(UserError, match=too_few):
        next(batches)
