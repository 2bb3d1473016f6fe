"""Data sets of PyTorch, streamed from the disk."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from leyden.data.streamed import StreamedDataModule


class DatasetDataModule(StreamedDataModule):
    """Any map-style `torch.utils.data.Dataset`, which gives a pair per index: an input, and its target.

    The names of its classes are its attribute `classes`, where it has it. What is random about a sample is drawn by
    `random`, `torch` or NumPy's global generator: then it follows from seed, epoch and index.

    Args:
        train: The data set, or what makes it, when it is called, with `root` where it has such an argument.
        val: The same for validation; None: `val_size` samples of `train`.
        test: The same for the test, made when the test set is asked for; None: there is none.
        root: The folder of the data sets that ask for it.
        further: As `StreamedDataModule` has it.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> class Parity(Dataset):
        ...     classes = ["even", "odd"]
        ...     def __len__(self):
        ...         return 6
        ...     def __getitem__(self, index):
        ...         return torch.full((1, 1, 1), index, dtype=torch.uint8), index % 2
        >>> data = DatasetDataModule(train=Parity(), val=None, test=None, root="data", batch_size=2, eval_batch_size=2,
        ...                          val_size=2, num_workers=0, normalize="unit", augment=None, seed=0)
        >>> data.facts.input_shape, data.sizes
        ((1, 1, 1), {'val': 2, 'train': 4})
    """

    def __init__(
        self,
        *,
        train: Any,
        val: Any,
        test: Any,
        root: str,
        **further: Any,
    ) -> None:
        super().__init__(**further)
        self.sources, self.root = {"train": train, "val": val, "test": test}, root
        for name, source in self.sources.items():
            if source is None and name != "train":
                continue
            if callable(source):
                made, keywords = getattr(source, "func", source), getattr(source, "keywords", {})
                try:
                    inspect.signature(made).bind(**keywords, **self._given(source))
                except TypeError as error:
                    raise ValueError(f"{name}: {error}") from error
            elif isinstance(source, str) or not hasattr(source, "__getitem__"):
                raise ValueError(f"{name}={source}: must be made by a _target_, with _partial_: true")

    @property
    def read_image(self) -> Callable[..., Tensor] | None:
        """How the data set reads an image file, where it has a `read_image(path)`."""
        train = self.sources["train"]
        return getattr(getattr(train, "func", train), "read_image", None)

    def open(self, split: str) -> Dataset[Any] | None:
        """The data set of a split, made where it is not there yet."""
        source: Any = self.sources[split]
        if source is None and split == "test":
            raise ValueError("test=null: there is no test set; test=false trains without one")
        made: Dataset[Any] | None = source(**self._given(source)) if callable(source) else source
        return made

    def _given(self, source: Any) -> dict[str, str]:
        """What a source gets: the root, if it asks for it and has none of its own."""
        asks = "root" in inspect.signature(getattr(source, "func", source)).parameters
        return {"root": self.root} if asks and "root" not in getattr(source, "keywords", {}) else {}
