"""Facts about a dataset that networks, tasks and callbacks are built from: shapes, classes, normalisation."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from leyden.data.transforms import Normalize

# Arguments that make torchvision's constructors download weights; reserved, so that no fact sets them.
DOWNLOAD_ARGUMENTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
# Facts derived from others, with a hint what to provide instead.
DERIVED = {
    "vocab_size": (
        "is the length of vocabulary; provide vocabulary (one text per token), or rename this fact, such as to "
        "num_tokens"
    ),
    "num_outputs": (
        "is num_classes, or the length of target_names or vocabulary; provide one of these, or rename this fact, "
        "such as to out_size"
    ),
}
MAX_NUMBERS = 2**28  # per sample: an untrusted checkpoint must not exhaust the memory
# Facts that are lists, and the type of their values.
KINDS = {
    "input_shape": int,
    "class_names": str,
    "mean": float,
    "std": float,
    "target_names": str,
    "vocabulary": str,
}


@dataclass(frozen=True)
class Facts:
    """Facts read from the data, not from the configuration; the network is built from them. None means unknown.

    Args:
        input_shape: Shape of one sample: (C, H, W) of an image, (C,) of a table row, (T,) of a text.
        num_classes: Number of classes.
        class_names: One name per class.
        mean: Mean per channel, as in `Normalize`.
        std: Standard deviation per channel, as in `Normalize`.
        scale: Scale, as in `Normalize`; None: 255 (pixels) if there is a mean, else 1.
        target_names: One name per number to predict.
        vocabulary: Text of each token.
        extra: Custom facts, plain values by name.
    """

    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    target_names: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_outputs(self) -> int | None:
        """Number of network outputs per sample (per token for text): one per class, target or vocabulary entry."""
        return self.num_classes or len(self.target_names or self.vocabulary or ()) or None

    @property
    def kind(self) -> str:
        """Kind of the targets: `classes`, `values` (numbers) or `text`; empty if unknown."""
        if self.num_classes is not None:
            return "classes"
        return "values" if self.target_names else "text" if self.vocabulary else ""

    @property
    def by_name(self) -> dict[str, Any]:
        """Known facts by the argument names that constructors use, without mean, standard deviation and scale."""
        return {**self.extra, **{name: value for name, value in self._named.items() if value is not None}}

    @property
    def missing(self) -> set[str]:
        """Names of the facts that these data do not have."""
        return {name for name, value in self._named.items() if value is None}

    @property
    def _named(self) -> dict[str, Any]:
        own = ("mean", "std", "scale", "extra")  # a network may use these names for its own settings
        named = {name: value for name, value in vars(self).items() if name not in own}
        vocab_size = None if self.vocabulary is None else len(self.vocabulary)
        return {**named, "num_outputs": self.num_outputs, "vocab_size": vocab_size}

    def to_state(self) -> dict[str, Any]:
        """Return the facts as plain values, for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Facts":
        """Return facts from a checkpoint, as written by `to_state`.

        Raises:
            ValueError: A value is invalid.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in state.items()
        }
        facts = cls(**values)
        for name, kind in KINDS.items():
            found = getattr(facts, name)
            if found is not None and not (type(found) is tuple and all(type(value) is kind for value in found)):
                raise ValueError(f"{name}: must be a list of type {kind.__name__}")
        shape, num, scale = facts.input_shape or (1,), facts.num_classes, facts.scale
        is_valid = {
            "input_shape": min(shape) > 0 and math.prod(shape) <= MAX_NUMBERS,
            "num_classes": num is None or (type(num) is int and num > 0),
            "class_names": facts.class_names is None or len(facts.class_names) == num,
            "mean": facts.mean is None or len(facts.mean) in (1, shape[0]),
            "std": facts.std is None or len(facts.std) in (1, shape[0]),
            "scale": scale is None or (type(scale) is float and scale > 0),
            "extra": isinstance(facts.extra, dict),
        }
        if wrong := [name for name, valid in is_valid.items() if not valid]:
            raise ValueError(f"{wrong[0]}: has a value that no data can have")
        facts.check_names()
        return facts

    def check_names(self) -> None:
        """Check that no custom fact has the name of a built-in fact or a reserved name.

        Raises:
            ValueError: Names the fact, and a replacement.
        """
        for name in self.extra:
            if name in DERIVED:
                raise ValueError(f"facts.{name}: {DERIVED[name]}")
            if name in self._named:
                raise ValueError(
                    f"facts.{name}: is read from the data; give your fact another name, such as my_{name}"
                )
            if name in DOWNLOAD_ARGUMENTS:
                raise ValueError(
                    f"facts.{name}: would make a network of torchvision download weights; give your fact another name, such as my_{name}"
                )

    @property
    def normalize(self) -> Normalize:
        """Transform from stored samples to network inputs."""
        scale = self.scale or (1.0 if self.mean is None else 255.0)
        return Normalize(self.mean or (0.0,), self.std or (1.0,), scale)
