"""Detection as somebody writes it: images of different sizes, a list of boxes for each."""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from leyden.tasks import Outcome, Task


class Boxes(Dataset[Any]):
    """Noise with one bright rectangle; the noise is drawn from `torch`, as an augmentation would."""

    classes = ("bright",)

    def __init__(self, num: int = 30) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        draw = random.Random(index)
        height, width = draw.randint(20, 30), draw.randint(20, 30)
        x, y = draw.randint(0, width - 10), draw.randint(0, height - 10)
        image = torch.rand(1, height, width) / 2
        image[:, y : y + 10, x : x + 10] = 1
        return image, {"boxes": torch.tensor([[x, y, x + 10.0, y + 10.0]]), "labels": torch.tensor([0])}

    @staticmethod
    def collate_fn(samples: list[Any]) -> Any:
        return tuple(zip(*samples, strict=True))


class Gaps(Boxes):
    """Some batches have no good sample: then there is none, as is often written."""

    @staticmethod
    def collate_fn(samples: list[Any]) -> Any:
        return None if samples[0][1]["boxes"][0, 0] > 12 else Boxes.collate_fn(samples)


class Corners(nn.Module):
    """The four corners of a box from an image of any size; in training its loss, otherwise boxes."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        assert num_classes == 1
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4)
        )

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        boxes_N4 = torch.cat([30 * self.layers(image[None]) for image in images])
        if self.training:
            return {"corners": nn.functional.l1_loss(boxes_N4, torch.cat([each["boxes"] for each in targets]))}
        return [{"boxes": box[None], "labels": torch.tensor([0])} for box in boxes_N4]


class Exhausted(nn.Module):
    """Its own iterator ends within the first epoch."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.weight, self.numbers = nn.Parameter(torch.zeros(4)), iter(range(3))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        return {"loss": self.weight.sum() * next(self.numbers)}


class Detection(Task):
    """Losses in training, and boxes to compare in validation."""

    without_metrics = ("train",)

    def step(self, batch: Any) -> Outcome:
        images, targets = batch
        outputs = self.network(images, targets)
        if isinstance(outputs, dict):
            return Outcome(sum(outputs.values(), torch.tensor(0.0)), None, targets)
        return Outcome(torch.tensor(0.0), outputs, targets)
