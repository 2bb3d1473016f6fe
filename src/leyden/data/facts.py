"""What the data say."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from leyden.data.transforms import Normalize

# What makes a function of torchvision fetch weights: no fact may be called so.
FETCHING = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
# Facts that follow from others: what to give instead.
DERIVED = {
    "vocab_size": "is the length of the fact vocabulary; give that, one text per token, or name yours otherwise, as num_tokens",
    "num_outputs": (
        "is num_classes, or the length of target_names or vocabulary; give one of these, or name yours otherwise, as out_size"
    ),
}
MAX_NUMBERS = 2**28  # of a sample: a file from anybody must not fill the memory


@dataclass(frozen=True)
class Facts:
    """What the data say and no configuration: a network is built to them. None stands for what they don't say.

    Args:
        input_shape: Shape of one sample, as (C, H, W) of an image, (C,) of a row of a table, (T,) of a text.
        num_classes: Number of classes.
        class_names: One name per class.
        mean: Of each channel, as `Normalize` takes it.
        std: Of each channel, as `Normalize` takes it.
        scale: As `Normalize` takes it; None: that of pixels, where there is a mean, else 1.
        target_names: One name per number that is to be predicted.
        vocabulary: What each token of a text stands for.
        further: Facts of your own, plain values by name.
    """

    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    target_names: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_outputs(self) -> int | None:
        """Numbers that a network gives per sample (per token of a text): one per class, target or word."""
        return self.num_classes or len(self.target_names or self.vocabulary or ()) or None

    @property
    def kind(self) -> str:
        """What the targets are: `classes`, `values` (numbers), `text`; empty where that is not known."""
        if self.num_classes is not None:
            return "classes"
        return "values" if self.target_names else "text" if self.vocabulary else ""

    @property
    def by_name(self) -> dict[str, Any]:
        """The facts that there are, by the names that a constructor asks for them; those of pixels are the data's own."""
        return {**self.further, **{name: value for name, value in self._named.items() if value is not None}}

    @property
    def lacking(self) -> set[str]:
        """Names of those that these data do not have."""
        return {name for name, value in self._named.items() if value is None}

    @property
    def _named(self) -> dict[str, Any]:
        own = ("mean", "std", "scale", "further")  # names that a network may have for choices of its own
        named = {name: value for name, value in vars(self).items() if name not in own}
        vocab_size = None if self.vocabulary is None else len(self.vocabulary)
        return {**named, "num_outputs": self.num_outputs, "vocab_size": vocab_size}

    def to_state(self) -> dict[str, Any]:
        """The facts as plain values, for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Facts":
        """The facts in a checkpoint, as `to_state` gave them.

        Raises:
            ValueError: They are none.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in state.items()
        }
        facts = cls(**values)
        shape, names = facts.input_shape, facts.class_names
        if shape is not None and not all(type(size) is int and size > 0 for size in shape):
            raise ValueError("input_shape: must be sizes")
        if math.prod(shape or ()) > MAX_NUMBERS:
            raise ValueError("input_shape: is larger than a sample can be")
        num = facts.num_classes
        if not (num is None or (type(num) is int and num > 0)) or (names is not None and len(names) != num):
            raise ValueError("class_names: must be a text per class")
        for key in ("class_names", "target_names", "vocabulary"):
            if not all(type(name) is str for name in getattr(facts, key) or ()):
                raise ValueError(f"{key}: must be texts")
        num_channels = {1, shape[0]} if shape else {1}
        for key in ("mean", "std"):
            numbers = getattr(facts, key)
            if numbers is not None and (
                len(numbers) not in num_channels or not all(type(value) is float for value in numbers)
            ):
                raise ValueError(f"{key}: must be a number per channel")
        if facts.scale is not None and (type(facts.scale) is not float or not facts.scale > 0):
            raise ValueError("scale: must be a number")
        if not isinstance(facts.further, dict):
            raise ValueError("further: must be facts by name")
        facts.check_names()
        return facts

    def check_names(self) -> None:
        """Make sure that no further fact has the name of another one, or one that is refused.

        Raises:
            ValueError: Names the fact, and what to give instead.
        """
        for name in self.further:
            if name in DERIVED:
                raise ValueError(f"facts.{name}: {DERIVED[name]}")
            if name in self._named:
                raise ValueError(f"facts.{name}: is read from the data; give your fact another name, as my_{name}")
            if name in FETCHING:
                raise ValueError(
                    f"facts.{name}: would make a network of torchvision fetch weights; give your fact another name, as my_{name}"
                )

    @property
    def normalize(self) -> Normalize:
        """From what the data set holds to what the network sees."""
        scale = self.scale or (1.0 if self.mean is None else 255.0)
        return Normalize(self.mean or (0.0,), self.std or (1.0,), scale)
