"""What `predict` prints and writes, by what it is asked: image files, a table, or a text to go on with."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.progress import Progress
from rich.table import Table

from leyden.config.mistakes import UserError
from leyden.config.terminal import Terminal, printable
from leyden.images.read import find_images
from leyden.images.sheet import sheet
from leyden.run.directory import Run
from leyden.run.files import write_whole, writing
from leyden.training.prediction_files import MAX_SHOWN, Batches, Shown, written
from leyden.training.predictions import classify, read_files
from leyden.training.reconstructed import reconstruct
from leyden.training.tables import predict_table
from leyden.training.texts import continue_text
from leyden.training.trained import check_kind, trained_task


def answer(cfg: DictConfig, run: Run, checkpoint: Path, output: Path | None, picture: Path | None) -> None:
    """Print what a trained network says, and write it to a file or draw a picture if asked to.

    Args:
        cfg: As `conf/predict.yaml` has it; one of `images`, `table` and `prompt` is given.
        run: The run.
        checkpoint: One of its checkpoints.
        output: A .csv or .json file.
        picture: A .png file, of images.

    Raises:
        UserError: The run has learned something else, or a file can't be read or written.
    """
    if picture and cfg.images is None:
        raise UserError(f"picture={picture}: is for images")
    if cfg.prompt is not None:
        if output:
            raise UserError(f"output={output}: is for images and tables; a text is printed")
        given = {"num_tokens": cfg.num_tokens, "temperature": cfg.temperature, "seed": cfg.seed}
        given["accelerator"] = cfg.accelerator
        print(printable(continue_text(run, checkpoint, str(cfg.prompt), **given)))
    elif cfg.table is not None:
        _show(predict_table(run, checkpoint, Path(cfg.table), accelerator=cfg.accelerator), output)
    else:
        paths = find_images(cfg.images)
        task, facts = trained_task(run, checkpoint, accelerator=cfg.accelerator)
        if task.kind == "reconstruction":
            made = reconstruct(task, facts, read_files(run, facts, paths, invert=cfg.invert))
            _show_reconstructions(made, len(paths), output, picture)
        else:
            check_kind(run, task, "classes")
            batches = classify(task, facts, read_files(run, facts, paths, invert=cfg.invert))
            _show_classes(batches, len(paths), output, picture)


def _show_classes(batches: Batches, num: int, output: Path | None, picture: Path | None) -> None:
    shown = Shown(of=num)
    with _bar() as bar:
        images = bar.add_task("images", total=num)
        for predictions, pixels_NCHW in written(output, batches) if output else batches:
            shown.add(predictions, pixels_NCHW)
            bar.advance(images, len(predictions))
    Terminal(width=shown.width).print(shown.table)
    if shown.left_out:
        Terminal().print(shown.left_out)
    if picture:
        shown.draw(picture)


def _show_reconstructions(
    made: Iterator[tuple[list[dict[str, Any]], torch.Tensor]], num: int, output: Path | None, picture: Path | None
) -> None:
    rows: list[dict[str, Any]] = []
    pairs: list[torch.Tensor] = []
    with _bar() as bar:
        images = bar.add_task("images", total=num)
        for batch, pairs_NCHW in made:
            pairs += [pairs_NCHW] if len(rows) < MAX_SHOWN else []
            rows += batch
            bar.advance(images, len(batch))
    _show(rows, output)
    if picture:
        content, shown = io.BytesIO(), torch.cat(pairs)[: 2 * MAX_SHOWN]
        title = "each image and its reconstruction"
        sheet(shown.numpy(), ["image", "output"] * (len(shown) // 2), title).savefig(content, format="png", dpi=120)
        with writing("picture", picture):
            write_whole(picture, content.getvalue())


def _show(rows: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Print the first rows, and write all of them if asked to."""
    table = Table(*rows[0], box=None)
    for row in rows[:MAX_SHOWN]:
        table.add_row(*(value if isinstance(value, str) else f"{value:.6g}" for value in row.values()))
    # A table is cut to the terminal's width, and a cut path can't be read.
    longest = max(len(printable(str(value))) for row in rows[:MAX_SHOWN] for value in row.values())
    Terminal(width=max(Terminal().width, longest + 40)).print(table)
    if len(rows) > MAX_SHOWN:
        Terminal().print(f"{len(rows) - MAX_SHOWN:,} further rows are not shown; output=FILE.csv writes all")
    if output:
        content = json.dumps(rows, indent=2) if output.suffix == ".json" else _csv(rows)
        with writing("output", output):
            write_whole(output, content.encode(errors="surrogateescape"))


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = csv.DictWriter(file := io.StringIO(newline=""), fieldnames=list(rows[0]))
    text.writeheader()
    text.writerows(rows)
    return file.getvalue()


def _bar() -> Progress:
    console = Terminal(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
