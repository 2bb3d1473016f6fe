"""Predictions of a trained network as one table: a row per image file, or per row of a table.

Shapes: N images or rows, C channels, H rows, W columns of an image; F columns, T targets, K
    classes.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from leyden.base.errors import UserError
from leyden.base.table import csv_text, json_text, print_table
from leyden.base.terminal import show
from leyden.data.contract import Facts
from leyden.data.folder import find_images, read_image
from leyden.data.table import NUMBER, Cells, as_list
from leyden.run.files import write_whole, writing
from leyden.tasks import Task
from leyden.trained.loading import Trained

MAX_SHOWN = 200  # images on a terminal
MAX_ROWS = 20  # of a table
MAX_INPUTS = 4  # of its input columns
PredictedRow = dict[str, Any]


def predict(
    trained: Trained,
    images: Sequence[str],
    table: str,
    *,
    invert: bool,
    accelerator: str | None,
    output: Path | None,
) -> None:
    """Print the predictions of a trained network, and write them to a file if one is named.

    Args:
        trained: The run and its checkpoint.
        images: Image files, and folders of them; none for a table.
        table: Path of a table, if there are no images.
        invert: Whether images are inverted.
        accelerator: Lightning's accelerator; None for that of `Trained.trainer`.
        output: A .csv or .json file to write; None for no file.

    Raises:
        UserError: The run has learned another kind of task, or a file can't be read or written.
    """
    paths = find_images(images) if images else []
    most = MAX_SHOWN
    hidden: Sequence[str] = ()
    with trained.seeded():
        task = trained.task(accelerator)
        try:
            if paths:
                rows = predict_images(trained, task, paths, invert=invert)
            else:
                rows = predict_table(task, trained.facts, Path(table), targets_of(trained))
                most = MAX_ROWS
                hidden = (trained.facts.extra.get("column_names") or ())[MAX_INPUTS:]
        except NotImplementedError as error:
            raise UserError(f"{trained.directory}: {error}") from error
    show_rows(rows, output, hidden=hidden, most=most)


ROWS_PER_BATCH = 10_000


def targets_of(trained: Trained) -> list[str]:
    """Return the columns that a run has learned to predict, as its settings or data name them."""
    dataset = trained.config["data"].get("dataset") or {}
    return as_list(dataset.get("targets") or trained.facts.target_names)


def predict_table(
    task: Task,
    facts: Facts,
    path: Path,
    targets: Sequence[str] = (),
) -> list[PredictedRow]:
    """Return the rows of a table with their predictions.

    Args:
        task: The trained task.
        facts: Facts of its training data.
        path: A .csv file, with the columns that the network was trained on.
        targets: Columns with the truth, which stands beside the predictions if the file has them.

    Raises:
        UserError: The file can't be read or lacks a column, or the network was not trained on rows
            of numbers.
    """
    shape = facts.input_shape or ()
    if len(shape) != 1:
        raise UserError(
            f"table: the network was trained on samples of shape {facts.input_shape}, not on "
            "rows of a table"
        )
    categories = facts.extra.get("categories") or {}
    try:
        cells = Cells(path)
        names = facts.extra.get("column_names") or list(cells.columns)
        cells.require(names)
        inputs_NF = cells.inputs(names, categories, slice(None))
    except (OSError, ValueError) as error:
        raise UserError(f"table: {error}") from error
    if inputs_NF.shape[1:] != shape:
        raise UserError(f"table: {path}: has {len(names)} columns; the network takes {shape[0]}")
    table = {name: _values(cells.columns[name], as_texts=name in categories) for name in names}
    are_classes = facts.class_names is not None
    for name in targets:
        if name in cells.columns:
            truth = _values(cells.columns[name], as_texts=are_classes)
            table.setdefault(f"true {name}", truth)
    predicted: list[PredictedRow] = []
    for part_NF in torch.split(inputs_NF, ROWS_PER_BATCH):
        predicted += _predictions(task, facts, part_NF)
    for name in {*predicted[0]} & {*table}:
        raise UserError(
            f"table: {path}: has a column {name}, which is the name of the prediction; rename it"
        )
    rows = []
    for values, found in zip(zip(*table.values(), strict=True), predicted, strict=True):
        row = dict(zip(table, values, strict=True))
        rows.append(row | found)
    return rows


def _values(cells: Sequence[str], *, as_texts: bool) -> list[Any]:
    values: list[Any] = []
    for cell in cells:
        is_text = as_texts or not NUMBER.fullmatch(cell)
        values.append(cell if is_text else float(cell))
    return values


def _predictions(task: Task, facts: Facts, stored: Tensor) -> list[PredictedRow]:
    """Return the task's predictions for samples as they are stored in the data set."""
    with torch.inference_mode():
        inputs = facts.normalize(stored.to(task.device))
        return task.predict_rows(inputs, facts)


PREDICTED_BATCH_SIZE = 64


def predict_images(
    trained: Trained,
    task: Task,
    paths: Sequence[Path],
    *,
    invert: bool,
) -> list[PredictedRow]:
    """Return a row per image: its name, and the task's prediction.

    Args:
        trained: The run and its checkpoint.
        task: Its task.
        paths: The image files.
        invert: Whether images are inverted.

    Raises:
        UserError: A file is not an image, or the network does not take images from files.
    """
    read = _image_reader(trained, invert=invert)
    console = Console(stderr=True)
    starts = range(0, len(paths), PREDICTED_BATCH_SIZE)
    is_silent = not console.is_terminal
    rows = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        for start in track(starts, console=console, transient=True, disable=is_silent):
            part = paths[start : start + PREDICTED_BATCH_SIZE]
            pixels_NCHW = torch.stack([*pool.map(read, part)])
            predicted = _predictions(task, trained.facts, pixels_NCHW)
            for path, found in zip(part, predicted, strict=True):
                rows.append({"image": str(path), **found})
    return rows


def _image_reader(trained: Trained, *, invert: bool) -> Callable[[Path], Tensor]:
    """Return a function that reads a file's pixels, shape (C, H, W), uint8, as the network does."""
    own = trained.read_image
    if own and invert:
        raise UserError(f"invert=true: the data set of {trained.directory} reads its files itself")
    if own:
        return own
    shape: Any = trained.facts.input_shape or ()
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"{trained.directory}: was trained on samples of shape {shape}; "
            "it can't predict images, "
            "which have 1 or 3 channels"
        )
    return functools.partial(read_image, invert=invert, input_shape=shape)


def show_rows(
    rows: Sequence[PredictedRow],
    output: Path | None,
    *,
    most: int,
    hidden: Sequence[str] = (),
) -> None:
    """Print the first rows, without each class's probability; write all to a file, if named.

    Args:
        rows: The rows, which have the same keys.
        output: A .csv or .json file; None for none.
        most: Number of rows that are printed.
        hidden: Columns that are not printed.

    Raises:
        UserError: The file can't be written.
    """
    if output:
        text = json_text(rows) if output.suffix == ".json" else csv_text(rows)
        with writing("output", output):
            write_whole(output, text.encode(errors="surrogateescape"))
    shown = []
    for row in rows[:most]:
        cells = {}
        for name, value in row.items():
            if name not in hidden and not name.startswith("p("):
                cells[name] = value if isinstance(value, str) else f"{value:.6g}"
        shown.append(cells)
    print_table(shown)
    left_out = []
    if len(rows) > most:
        left_out.append(f"{len(rows) - most:,} further rows")
    if hidden:
        left_out.append(f"{len(hidden):,} further columns")
    if left_out:
        show(f"{' and '.join(left_out)} are not shown; output=FILE.csv writes all")
