"""Predictions of a trained network: image files, rows of a table, text.

Shapes: N images or rows, C channels, H rows, W columns of an image; F columns, T targets, K classes.
"""

import contextlib
import functools
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset

from leyden.assembly.trust import trusted_config
from leyden.config.console import Terminal
from leyden.config.errors import UserError
from leyden.config.terminal import csv_text, printable, warn
from leyden.data.facts import Facts
from leyden.data.images import find_images, is_off_center, read_centered, read_image
from leyden.data.random_state import seeded_as_run
from leyden.data.streamed import SeededSamples, StreamLoader
from leyden.data.table import numbers_of, read_columns
from leyden.data.text import text_of, tokens_of
from leyden.pictures.figures import paired_sheet, sheet
from leyden.run.directory import Run
from leyden.run.files import replacing, write_whole, writing
from leyden.tasks.language import generate
from leyden.tasks.task import Task
from leyden.training.trained import check_kind, image_reader, trained_task


def reconstruct(
    task: Task, facts: Facts, images: Iterable[tuple[list[str], Tensor]]
) -> Iterator[tuple[list[dict[str, Any]], Tensor]]:
    """Reconstruct batches of images from `read_image_batches`.

    Yields:
        A row per image, with the mean squared error of its normalised pixels; and a tensor of shape (2 N, C, H, W)
        of normalised images, each followed by its reconstruction.

    Raises:
        UserError: A file is not an image.
    """
    for names, pixels_NCHW in images:
        with torch.inference_mode():
            inputs_NCHW = facts.normalize(pixels_NCHW.to(task.device))
            outputs = task.network(inputs_NCHW)
            outputs_NCHW = (outputs[0] if isinstance(outputs, tuple) else outputs).cpu()
            inputs_NCHW = inputs_NCHW.cpu()
        errors_N = (outputs_NCHW - inputs_NCHW).square().flatten(1).mean(dim=1)
        rows = [
            {"image": name, "squared error": error} for name, error in zip(names, errors_N.tolist(), strict=True)
        ]
        yield rows, torch.stack([inputs_NCHW, outputs_NCHW], dim=1).flatten(0, 1)


def continue_text(
    run: Run,
    checkpoint: Path,
    prompt: str,
    *,
    num_tokens: int,
    temperature: float,
    seed: int,
    accelerator: str | None,
) -> str:
    """Return a text that continues `prompt`, sampled by `generate`.

    Raises:
        UserError: The run has not learned texts, or its vocabulary lacks a part of the prompt.
    """
    task, facts = trained_task(run, checkpoint, "text", accelerator=accelerator)
    vocabulary, shape = facts.vocabulary, facts.input_shape
    if vocabulary is None or shape is None:
        raise UserError(f"{run.directory}: its data provide no vocabulary, or no input_shape")
    try:
        tokens_T = tokens_of(prompt, vocabulary)
        if not len(tokens_T) or num_tokens < 1 or not temperature > 0:
            raise ValueError("prompt, num_tokens and temperature: must be a text, and positive numbers")
    except ValueError as error:
        raise UserError(f"prompt={prompt}: {error}") from error
    chosen_T = generate(
        task.network,
        tokens_T.to(task.device),
        num_tokens=num_tokens,
        max_context=shape[0],
        temperature=temperature,
        seed=seed,
    )
    return text_of(chosen_T.cpu(), vocabulary)


ROWS_PER_BATCH = 10_000


def predict_table(
    run: Run, checkpoint: Path, path: Path, *, accelerator: str | None
) -> list[dict[str, float | str]]:
    """Return the rows of a table with predictions: a number per target, or the class and its probability.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        path: A .csv, .parquet or .npz file, with the columns that the network was trained on.
        accelerator: The accelerator to compute on; None for the run's.

    Raises:
        UserError: The file can't be read or lacks a column, or the network was not trained on rows of numbers.
    """
    task, facts = trained_task(run, checkpoint, "values", "classes", accelerator=accelerator)
    if len(facts.input_shape or ()) != 1:
        raise UserError(
            f"{run.directory}: was trained on samples of shape {facts.input_shape}, not on rows of a table"
        )
    try:
        columns = read_columns(path.parent, path.name)
        names = facts.extra.get("column_names") or list(columns)
        if missing := [name for name in names if name not in columns]:
            raise ValueError(f"{path}: has no column {missing[0]}; it has {', '.join(columns)}")
        if len(names) != (facts.input_shape or ())[0]:
            raise ValueError(f"{path}: has {len(names)} columns; the network takes {(facts.input_shape or ())[0]}")
        inputs_NF = torch.from_numpy(np.stack([numbers_of(path, name, columns[name]) for name in names], axis=1))
    except (OSError, ValueError) as error:
        raise UserError(f"table: {error}") from error
    with torch.inference_mode():
        parts = [
            task.network(facts.normalize(part.to(task.device))).cpu()
            for part in torch.split(inputs_NF, ROWS_PER_BATCH)
        ]
    rows = zip(inputs_NF.tolist(), torch.cat(parts), strict=True)
    return [dict(zip(names, row, strict=True)) | _predicted(outputs, facts) for row, outputs in rows]


def _predicted(outputs: torch.Tensor, facts: Facts) -> dict[str, float | str]:
    if facts.class_names is not None:
        probability, k = outputs.softmax(dim=0).max(dim=0)
        return {"class": facts.class_names[int(k)], "probability": probability.item()}
    return {
        f"predicted {name}": value
        for name, value in zip(facts.target_names or (), outputs.reshape(-1).tolist(), strict=True)
    }


BATCH_SIZE = 64
NUM_WORKERS = 4  # processes that read files
MIN_FILES_FOR_WORKERS = 1000  # up to so many files are read in the main process


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of an image.

    Args:
        image: Path of the image file.
        probabilities: Probability by class name, in the data's order of classes.
    """

    image: str
    probabilities: dict[str, float]

    @property
    def likeliest(self) -> list[tuple[str, float]]:
        """Class names and probabilities, the likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Dataset of image files; a sample is the pixels and the index of an image.

    Args:
        paths: Paths of the files.
        read: Reads a file; returns pixels, shape (C, H, W).
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Tensor]) -> None:
        # Workers share the memory of an array; a list would be copied to each.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.fsdecode(self.paths[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the pixels, shape (C, H, W), and the index of an image."""
        return self.read(Path(self.path(index))), index


def classify(
    task: Task, facts: Facts, images: Iterable[tuple[list[str], Tensor]]
) -> Iterator[tuple[list[Prediction], Tensor]]:
    """Classify batches of images.

    Args:
        task: The trained task.
        facts: Facts of its training data.
        images: Batches from `read_image_batches`.

    Yields:
        The predictions, and the images as the network receives them, shape (N, C, H, W), uint8.

    Raises:
        UserError: A file is not an image.
    """
    classes = facts.class_names or ()
    for names, pixels_NCHW in images:
        with torch.inference_mode():
            logits_NK = task.network(facts.normalize(pixels_NCHW.to(task.device)))
            probabilities_NK = logits_NK.softmax(dim=1).cpu()
        yield (
            [
                Prediction(name, dict(zip(classes, row, strict=True)))
                for name, row in zip(names, probabilities_NK.tolist(), strict=True)
            ],
            pixels_NCHW,
        )


def read_image_batches(
    run: Run, facts: Facts, paths: Sequence[Path], *, invert: bool, center: bool = False
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield batches of image files: their paths, and pixels as the run's network receives them.

    Pixels have shape (N, C, H, W), uint8. At the end, a warning names images that are mostly light, as they may
    need `invert`, and drawings that are off center, for a network of grey images, as they may need `center`.

    Raises:
        UserError: A file is not an image, or the network does not take images from files.
    """
    shape: Any = facts.input_shape or ()
    data_reader = image_reader(run)
    if data_reader and (invert or center):
        key = "invert" if invert else "center"
        raise UserError(f"{key}=true: the data set of {run.directory} reads its files itself")
    if invert and center:
        raise UserError("invert=true: center=true finds the ground by itself")
    if not data_reader and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise UserError(
            f"{run.directory}: was trained on samples of shape {shape}; it can't predict images, which have 1 or 3 "
            "channels"
        )
    own_reader = functools.partial(read_image, invert=invert) if not center else read_centered
    read = data_reader or functools.partial(own_reader, input_shape=shape)
    files = ImageFiles(paths, read)
    loader = StreamLoader(
        SeededSamples(files, 0, None),
        torch.arange(len(paths)),
        batch_size=BATCH_SIZE,
        num_workers=min(NUM_WORKERS, os.cpu_count() or 1) if len(paths) > MIN_FILES_FOR_WORKERS else 0,
        shuffle=False,
    )
    light, off_center = SomeNames(), SomeNames()
    with contextlib.closing(loader):
        for pixels_NCHW, indices_N in loader:
            names = [files.path(index) for index in indices_N.tolist()]
            if not data_reader:
                is_off_N = torch.zeros(len(names), dtype=torch.bool)
                if shape[0] == 1 and not center:
                    is_off_N = is_off_center(pixels_NCHW)
                off_center.add(names, is_off_N)
                light.add(names, (pixels_NCHW.float().mean((1, 2, 3)) > 127) & ~is_off_N)
            yield names, pixels_NCHW
    if off_center.num:
        warn(f"not centered on a black ground, did you mean center=true? {off_center.text}")
    if light.num:
        keys = "invert=false" if invert else "center=true, or invert=true" if shape[0] == 1 else "invert=true"
        warn(f"mostly light, did you mean {keys}? {light.text}")


class SomeNames:
    """The first five of any number of names, and how many there are."""

    def __init__(self) -> None:
        self.num = 0
        self._first: list[str] = []

    def add(self, names: Sequence[str], is_meant_N: Tensor) -> None:
        """Add those of the names that are meant."""
        self.num += int(is_meant_N.sum())
        self._first = [*self._first, *itertools.compress(names, is_meant_N)][:5]

    @property
    def text(self) -> str:
        """The first names, and how many more there are."""
        return ", ".join(self._first) + (f" and {self.num - 5} more" if self.num > 5 else "")


MAX_SHOWN = 200  # rows on a terminal, images in a picture
Batches = Iterator[tuple[list[Prediction], Tensor]]


def write_predictions(path: Path, batches: Batches) -> Batches:
    """Yield the batches unchanged, and write all their probabilities to a .csv or .json file.

    The file appears at its path after the last batch.

    Raises:
        UserError: The file can't be written.
    """
    rows = _batch_as_json if path.suffix == ".json" else _batch_as_csv
    with writing("output", path), replacing(path) as file:
        for number, (predictions, pixels_NCHW) in enumerate(batches):
            file.write(rows(predictions, is_first=number == 0).encode(errors="surrogateescape"))
            yield predictions, pixels_NCHW
        file.write(b"\n]\n" if path.suffix == ".json" else b"")


def _batch_as_json(predictions: Sequence[Prediction], *, is_first: bool) -> str:
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


def _batch_as_csv(predictions: Sequence[Prediction], *, is_first: bool) -> str:
    header = ["image", "class", "probability", *(f"p({name})" for name in predictions[0].probabilities)]
    rows = [[each.image, *each.likeliest[0], *each.probabilities.values()] for each in predictions]
    return csv_text([header, *rows] if is_first else rows)


class ShownPredictions:
    """The first predictions, up to `MAX_SHOWN`, for a terminal and a picture.

    Args:
        total: Number of all predictions.
    """

    def __init__(self, *, total: int) -> None:
        self.total = total
        self._predictions: list[Prediction] = []
        self._pixels: list[Tensor] = []

    def add(self, predictions: Sequence[Prediction], pixels_NCHW: Tensor) -> None:
        """Add a batch, up to `MAX_SHOWN` predictions in total."""
        room = MAX_SHOWN - len(self._predictions)
        if room:
            self._predictions += predictions[:room]
            self._pixels.append(pixels_NCHW[:room])

    @property
    def table(self) -> Table:
        """A table with a row per image."""
        table = Table("image", "class", "probability", "next", box=None)
        for prediction in self._predictions:
            (name, probability), (second, next_to_it) = _first_two(prediction)
            table.add_row(prediction.image, name, f"{probability:.4f}", f"{second} {next_to_it:.4f}")
        return table

    @property
    def width(self) -> int:
        """Width in characters, at least the terminal's, at which no path is cut."""
        longest = max(len(printable(prediction.image)) for prediction in self._predictions)
        return max(Terminal().width, longest + 50)

    @property
    def left_out(self) -> str:
        """A line with the number of images that are not shown; empty if all are."""
        num = self.total - len(self._predictions)
        return f"{num:,} further images are not shown; output=FILE.csv writes all" if num else ""

    def draw(self, path: Path) -> None:
        """Draw the images with their two likeliest classes to a .png file.

        Raises:
            UserError: The file can't be written.
        """
        captions = []
        for prediction in self._predictions:
            first, second = _first_two(prediction)
            captions.append(f"{first[0]}  {first[1]:.3f}\n{second[0]}  {second[1]:.3f}")
        title = "as the network sees them, with the two likeliest classes"
        title += f"\nthe first {len(captions)} of {self.total}" * (self.total > len(captions))
        content = io.BytesIO()
        sheet(torch.cat(self._pixels).numpy(), captions, title).savefig(content, format="png", dpi=120)
        with writing("picture", path):
            write_whole(path, content.getvalue())


def _first_two(prediction: Prediction) -> list[tuple[str, float]]:
    return (2 * prediction.likeliest)[:2] if len(prediction.probabilities) == 1 else prediction.likeliest[:2]


def predict(cfg: DictConfig, run: Run, checkpoint: Path, output: Path | None, picture: Path | None) -> None:
    """Print the predictions of a trained network, and optionally write them to a file and draw a picture.

    Args:
        cfg: The configuration of `conf/predict.yaml`, with one of `images`, `table` and `prompt` set.
        run: The run.
        checkpoint: One of its checkpoints.
        output: A .csv or .json file to write; None for no file.
        picture: A .png file to draw the images to; None for no picture.

    Raises:
        UserError: The run has learned another kind of task, or a file can't be read or written.
    """
    if picture and cfg.images is None:
        raise UserError(f"picture={picture}: is for images")
    paths = [] if cfg.images is None else find_images(cfg.images)
    with seeded_as_run(trusted_config(run).seed, "task"):  # a network that draws predicts the same each time
        if cfg.prompt is not None:
            if output:
                raise UserError(f"output={output}: is for images and tables; a text is printed")
            given = {"num_tokens": cfg.num_tokens, "temperature": cfg.temperature, "seed": cfg.seed}
            given["accelerator"] = cfg.accelerator
            print(printable(continue_text(run, checkpoint, str(cfg.prompt), **given)))
        elif cfg.table is not None:
            _print_rows(predict_table(run, checkpoint, Path(cfg.table), accelerator=cfg.accelerator), output)
        else:
            task, facts = trained_task(run, checkpoint, accelerator=cfg.accelerator)
            if task.kind == "reconstruction":
                images = read_image_batches(run, facts, paths, invert=cfg.invert, center=cfg.center)
                reconstructed = reconstruct(task, facts, images)
                _show_reconstructions(reconstructed, len(paths), output, picture)
            else:
                check_kind(run, task, "classes")
                images = read_image_batches(run, facts, paths, invert=cfg.invert, center=cfg.center)
                batches = classify(task, facts, images)
                _show_classes(batches, len(paths), output, picture)


def _show_classes(batches: Batches, num: int, output: Path | None, picture: Path | None) -> None:
    shown = ShownPredictions(total=num)
    with _progress_bar() as bar:
        images = bar.add_task("images", total=num)
        for predictions, pixels_NCHW in write_predictions(output, batches) if output else batches:
            shown.add(predictions, pixels_NCHW)
            bar.advance(images, len(predictions))
    Terminal(width=shown.width).print(shown.table)
    if shown.left_out:
        Terminal().print(shown.left_out)
    if picture:
        shown.draw(picture)


def _show_reconstructions(
    batches: Iterator[tuple[list[dict[str, Any]], torch.Tensor]],
    num: int,
    output: Path | None,
    picture: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    pairs: list[torch.Tensor] = []
    with _progress_bar() as bar:
        images = bar.add_task("images", total=num)
        for batch, pairs_NCHW in batches:
            pairs += [pairs_NCHW] if len(rows) < MAX_SHOWN else []
            rows += batch
            bar.advance(images, len(batch))
    _print_rows(rows, output)
    if picture:
        content, shown = io.BytesIO(), torch.cat(pairs)[: 2 * MAX_SHOWN].numpy()
        figure = paired_sheet(shown[::2], shown[1::2], ("image", "output"), "each image above its reconstruction")
        figure.savefig(content, format="png", dpi=120)
        with writing("picture", picture):
            write_whole(picture, content.getvalue())


def _print_rows(rows: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Print the first rows, and write all rows to `output` if it is given."""
    table = Table(*rows[0], box=None)
    for row in rows[:MAX_SHOWN]:
        table.add_row(*(value if isinstance(value, str) else f"{value:.6g}" for value in row.values()))
    # Widen the table beyond the terminal if needed, as rich would cut long paths.
    longest = max(len(printable(str(value))) for row in rows[:MAX_SHOWN] for value in row.values())
    Terminal(width=max(Terminal().width, longest + 40)).print(table)
    if len(rows) > MAX_SHOWN:
        Terminal().print(f"{len(rows) - MAX_SHOWN:,} further rows are not shown; output=FILE.csv writes all")
    if output:
        as_csv = csv_text([rows[0], *([row[name] for name in rows[0]] for row in rows)])
        content = json.dumps(rows, indent=2) if output.suffix == ".json" else as_csv
        with writing("output", output):
            write_whole(output, content.encode(errors="surrogateescape"))


def _progress_bar() -> Progress:
    console = Terminal(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
