"""What the data say."""

from dataclasses import dataclass
from typing import Any

from leyden.data.normalize import Normalize


@dataclass(frozen=True)
class Facts:
    """What the data say and no configuration: a network is built to them.

    Args:
        input_shape: Shape of one image, (C, H, W).
        num_classes: Number of classes.
        class_names: A name a class.
        mean: Of each channel, as `Normalize` takes it.
        std: Of each channel, as `Normalize` takes it.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Facts":
        """The facts in a checkpoint, as `ImageDataModule.state_dict` gave them."""
        return cls(
            input_shape=tuple(state["input_shape"]),
            num_classes=state["num_classes"],
            class_names=tuple(state["class_names"]),
            mean=tuple(state["mean"]),
            std=tuple(state["std"]),
        )

    @property
    def normalize(self) -> Normalize:
        """From pixels to what the network sees."""
        return Normalize(self.mean, self.std)
