"""What a trained network makes of the rows of a table. Shapes: N rows, F columns, T targets, K classes."""

from pathlib import Path

import numpy as np
import torch

from leyden.config.mistakes import UserError
from leyden.data.columns import read_columns
from leyden.data.facts import Facts
from leyden.data.table import numbers_of
from leyden.run.directory import Run
from leyden.training.trained import trained_task

BATCH_SIZE = 10_000


def predict_table(
    run: Run, checkpoint: Path, path: Path, *, accelerator: str | None
) -> list[dict[str, float | str]]:
    """The rows of a table with what is predicted: a number per target, or the class and its probability.

    Args:
        run: The run.
        checkpoint: One of its checkpoints.
        path: A .csv, .parquet or .npz file, with the columns that the network was trained on.
        accelerator: By which it computes; None: the run's.

    Raises:
        UserError: It is no such file, lacks a column, or the network was not trained on rows of numbers.
    """
    task, facts = trained_task(run, checkpoint, "values", "classes", accelerator=accelerator)
    if len(facts.input_shape or ()) != 1:
        raise UserError(f"{run.directory}: was trained on samples of shape {facts.input_shape}, no rows of a table")
    try:
        columns = read_columns(path.parent, path.name)
        names = facts.further.get("column_names") or list(columns)
        if missing := [name for name in names if name not in columns]:
            raise ValueError(f"{path}: has no column {missing[0]}; it has {', '.join(columns)}")
        if len(names) != (facts.input_shape or ())[0]:
            raise ValueError(f"{path}: has {len(names)} columns; the network takes {(facts.input_shape or ())[0]}")
        inputs_NF = torch.from_numpy(np.stack([numbers_of(path, name, columns[name]) for name in names], axis=1))
    except (OSError, ValueError) as error:
        raise UserError(f"table: {error}") from error
    with torch.inference_mode():
        parts = [
            task.network(facts.normalize(part.to(task.device))).cpu() for part in torch.split(inputs_NF, BATCH_SIZE)
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
