"""Where predictions go as they come: all to a table in a file, the first ones to the terminal and a picture."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from leyden.config.terminal import Terminal, printable
from leyden.images.sheet import sheet
from leyden.run.files import replacing, write_whole, writing
from leyden.training.predictions import Prediction

MAX_SHOWN = 200  # rows on a terminal, images in a picture
Batches = Iterator[tuple[list[Prediction], Tensor]]


def written(path: Path, batches: Batches) -> Batches:
    """The same batches; when they have passed, all probabilities stand in a .csv or .json file.

    Raises:
        UserError: It can't be written.
    """
    rows = _json if path.suffix == ".json" else _csv
    with writing("output", path), replacing(path) as file:
        for number, (predictions, pixels_NCHW) in enumerate(batches):
            file.write(rows(predictions, is_first=number == 0).encode(errors="surrogateescape"))
            yield predictions, pixels_NCHW
        file.write(b"\n]\n" if path.suffix == ".json" else b"")


def _json(predictions: Sequence[Prediction], *, is_first: bool) -> str:
    rows = [
        {
            "image": prediction.image,
            "class": prediction.likeliest[0][0],
            "probability": prediction.likeliest[0][1],
            "probabilities": prediction.probabilities,
        }
        for prediction in predictions
    ]
    return ("[\n" if is_first else ",\n") + ",\n".join(json.dumps(row, indent=2) for row in rows)


def _csv(predictions: Sequence[Prediction], *, is_first: bool) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    if is_first:
        table.writerow(["image", "class", "probability", *(f"p({name})" for name in predictions[0].probabilities)])
    for prediction in predictions:
        table.writerow([prediction.image, *prediction.likeliest[0], *prediction.probabilities.values()])
    return text.getvalue()


class Shown:
    """The first predictions, for a terminal and a picture.

    Args:
        of: Number of all.
    """

    def __init__(self, *, of: int) -> None:
        self.of = of
        self._predictions: list[Prediction] = []
        self._pixels: list[Tensor] = []

    def add(self, predictions: Sequence[Prediction], pixels_NCHW: Tensor) -> None:
        """Keep of a batch what there is room for."""
        room = MAX_SHOWN - len(self._predictions)
        if room:
            self._predictions += predictions[:room]
            self._pixels.append(pixels_NCHW[:room])

    @property
    def table(self) -> Table:
        """A row per image."""
        table = Table("image", "class", "probability", "next", box=None)
        for prediction in self._predictions:
            (name, probability), (second, next_to_it) = _first_two(prediction)
            table.add_row(prediction.image, name, f"{probability:.4f}", f"{second} {next_to_it:.4f}")
        return table

    @property
    def width(self) -> int:
        """Letters of a line: a table is cut to the terminal's width, and a cut path can't be read."""
        longest = max(len(printable(prediction.image)) for prediction in self._predictions)
        return max(Terminal().width, longest + 50)

    @property
    def left_out(self) -> str:
        """What the table does not hold; empty for nothing."""
        num = self.of - len(self._predictions)
        return f"{num:,} further images are not shown; output=FILE.csv writes all" if num else ""

    def draw(self, path: Path) -> None:
        """Draw the images with the two likeliest classes of each into a .png file.

        Raises:
            UserError: It can't be written.
        """
        captions = []
        for prediction in self._predictions:
            first, second = _first_two(prediction)
            captions.append(f"{first[0]}  {first[1]:.3f}\n{second[0]}  {second[1]:.3f}")
        title = "as the network sees them, with the two likeliest classes"
        title += f"\nthe first {len(captions)} of {self.of}" * (self.of > len(captions))
        content = io.BytesIO()
        sheet(torch.cat(self._pixels).numpy(), captions, title).savefig(content, format="png", dpi=120)
        with writing("picture", path):
            write_whole(path, content.getvalue())


def _first_two(prediction: Prediction) -> list[tuple[str, float]]:
    return (2 * prediction.likeliest)[:2] if len(prediction.probabilities) == 1 else prediction.likeliest[:2]
