"""Predictions of a trained network as one table: a row per image file, or per row of a table.

Shapes: N images or rows, C channels, H rows, W columns of an image; F columns, T targets, K classes.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from leyden.config.errors import UserError
from leyden.config.table import csv_text, json_text, print_table
from leyden.config.terminal import show, some_of, warn
from leyden.data.contract import Facts
from leyden.data.folder import find_images, read_image
from leyden.data.table import NUMBER, read_columns, require_columns, to_inputs, values_of
from leyden.run.files import write_whole, writing
from leyden.tasks import Task
from leyden.training.trained import Trained

MAX_SHOWN = 200  # images on a terminal
MAX_ROWS, MAX_INPUTS = 20, 4  # of a table, and of its input columns
Row = dict[str, Any]


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
    with trained.seeded():
        kinds = ("classes", "reconstruction") if paths else ("values", "classes")
        task = trained.task(*kinds, accelerator=accelerator)
        if paths:
            batches = read_image_batches(trained, paths, invert=invert)
            show_rows(predict_images(task, trained.facts, batches), len(paths), output)
        else:
            found = predict_table(task, trained.facts, Path(table), targets_of(trained))
            inputs = trained.facts.extra.get("column_names") or ()
            hidden = inputs[MAX_INPUTS:]
            show_rows(found, len(found), output, hidden=hidden, most=MAX_ROWS)


ROWS_PER_BATCH = 10_000


def targets_of(trained: Trained) -> list[str]:
    """Return the names of the columns that a run has learned to predict, as its settings or its data name them."""
    dataset = trained.config["data"].get("dataset") or {}
    named = dataset.get("targets") or trained.facts.target_names or ()
    if isinstance(named, str):
        return [named]
    return list(named)


def predict_table(task: Task, facts: Facts, path: Path, targets: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a table with predictions: a number per target, or the class and its probability.

    Args:
        task: The trained task.
        facts: Facts of its training data.
        path: A .csv file, with the columns that the network was trained on.
        targets: Columns with the truth, which stands beside the predictions if the file has them.

    Raises:
        UserError: The file can't be read or lacks a column, or the network was not trained on rows of numbers.
    """
    if len(facts.input_shape or ()) != 1:
        raise UserError(
            f"table: the network was trained on samples of shape {facts.input_shape}, not on rows of a table"
        )
    try:
        columns, _ = read_columns(path)
        names = facts.extra.get("column_names") or list(columns)
        require_columns(path, columns, names)
        values = values_of(path, columns, names, known := facts.extra.get("categories") or {})
        inputs_NF = to_inputs(path, values, known)
        if inputs_NF.shape[1:] != facts.input_shape:
            raise ValueError(
                f"{path}: has {len(names)} columns; the network takes {(facts.input_shape or ())[0]}"
            )
    except (OSError, ValueError) as error:
        raise UserError(f"table: {error}") from error
    with torch.inference_mode():
        parts = [
            task.network(facts.normalize(part.to(task.device))).cpu()
            for part in torch.split(inputs_NF, ROWS_PER_BATCH)
        ]
    table = {name: column.tolist() for name, column in values.items()}
    for name in targets:
        key = f"true {name}"
        if name in columns and key not in table:
            table[key] = [_cell(text) for text in columns[name]]
    rows = zip(*table.values(), strict=True)
    predicted = [_predicted(outputs, facts) for outputs in torch.cat(parts)]
    if taken := sorted({*table} & {*predicted[0]}):
        raise UserError(
            f"table: {path}: has a column {taken[0]}, which is the name of the prediction; rename it"
        )
    return [
        dict(zip(table, row, strict=True)) | found
        for row, found in zip(rows, predicted, strict=True)
    ]


def _cell(text: str) -> float | str:
    return float(text) if NUMBER.fullmatch(text) else text


def _predicted(outputs: torch.Tensor, facts: Facts) -> Row:
    """Return the class and its probability, or the predicted numbers, of a sample's outputs on the CPU."""
    if facts.class_names is not None:
        probability, k = outputs.softmax(dim=0).max(dim=0)
        return {"class": facts.class_names[int(k)], "probability": probability.item()}
    numbers = outputs.reshape(-1).tolist()
    return {
        f"predicted {name}": value
        for name, value in zip(facts.target_names or (), numbers, strict=True)
    }


def predict_images(
    task: Task, facts: Facts, images: Iterable[tuple[list[str], Tensor]]
) -> Iterator[Row]:
    """Yield a row per image: its class and the probability of each class, or the error of its reconstruction.

    Args:
        task: The trained task.
        facts: Facts of its training data.
        images: Batches from `read_image_batches`.

    Raises:
        UserError: A file is not an image.
    """
    for names, pixels_NCHW in images:
        with torch.inference_mode():
            inputs_NCHW = facts.normalize(pixels_NCHW.to(task.device))
            outputs = task.network(inputs_NCHW)
        if task.kind == "classes":
            for name, logits_K in zip(names, outputs.cpu(), strict=True):
                each = zip(facts.class_names or (), logits_K.softmax(dim=0).tolist(), strict=True)
                yield {
                    "image": name,
                    **_predicted(logits_K, facts),
                    **{f"p({k})": p for k, p in each},
                }
        else:
            outputs_NCHW = (outputs[0] if isinstance(outputs, tuple) else outputs).cpu()
            errors_N = (outputs_NCHW - inputs_NCHW.cpu()).square().flatten(1).mean(dim=1)
            for name, error in zip(names, errors_N.tolist(), strict=True):
                yield {"image": name, "squared error": error}  # the mean over the normalised pixels


BATCH_SIZE = 64


def read_image_batches(
    trained: Trained, paths: Sequence[Path], *, invert: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield batches of image files: their paths, and pixels as the run's network receives them.

    Pixels have shape (N, C, H, W), uint8. At the end, a warning names images that are mostly light, as they may
    need `invert`.

    Raises:
        UserError: A file is not an image, or the network does not take images from files.
    """
    shape: Any = trained.facts.input_shape or ()
    directory, data_reader = trained.run.directory, trained.read_image
    if data_reader and invert:
        raise UserError(f"invert=true: the data set of {directory} reads its files itself")
    if not data_reader and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise UserError(
            f"{directory}: was trained on samples of shape {shape}; it can't predict images, which have 1 or 3 channels"
        )
    read = data_reader or functools.partial(read_image, invert=invert, input_shape=shape)
    light: list[str] = []
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        for start in range(0, len(paths), BATCH_SIZE):
            part = paths[start : start + BATCH_SIZE]
            pixels_NCHW = torch.stack([*pool.map(read, part)])
            names = [*map(str, part)]
            if not data_reader:
                light += [
                    name
                    for name, each in zip(names, pixels_NCHW, strict=True)
                    if each.float().mean() > 127
                ]
            yield names, pixels_NCHW
    if light:
        warn(f"mostly light, did you mean invert={str(not invert).lower()}? {some_of(light, 5)}")


def show_rows(
    rows: Iterable[Row],
    num: int,
    output: Path | None,
    *,
    hidden: Sequence[str] = (),
    most: int | None = None,
) -> None:
    """Print the first rows, without the probabilities of each class, and write all rows to a file if one is named.

    Args:
        rows: The rows, which have the same keys.
        num: Number of the rows.
        output: A .csv or .json file; None for none.
        hidden: Columns that are not printed.
        most: Number of rows that are printed; None for `MAX_SHOWN`.

    Raises:
        UserError: The file can't be written.
    """
    console = Console(stderr=True)
    most = MAX_SHOWN if most is None else most
    found: list[Row] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for row in bar.track(rows, total=num):
            if output or len(found) < most:
                found.append(row)
    if output:
        text = json_text(found) if output.suffix == ".json" else csv_text(found)
        with writing("output", output):
            write_whole(output, text.encode(errors="surrogateescape"))
    names = [name for name in found[0] if name not in hidden and not name.startswith("p(")]
    shown = [{name: _shown(row[name]) for name in names} for row in found[:most]]
    print_table(shown)
    left_out = []
    if num > most:
        left_out.append(f"{num - most:,} further rows")
    if hidden:
        left_out.append(f"{len(hidden):,} further columns")
    if left_out:
        show(f"{' and '.join(left_out)} are not shown; output=FILE.csv writes all")


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
