"""Rows that belong together, which speak against a random split.

Shapes: N rows, F columns, P pairs of rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float32]
MIN_ROWS = 20
MIN_DIFFERENT = 5  # different ones, of a column by which rows are ordered; classes are fewer
MAX_VALUE_LENGTH = 40  # characters of a number or date
NUM_PAIRS = 256
SHARED = 0.5  # part of the values that neighbours have in common
NEAR = 0.2  # distance of neighbours, as a part of that of other pairs
DATE = re.compile(r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([ T].*)?", re.ASCII)


def ordered_by(columns: Mapping[str, Sequence[str]], names: Iterable[str]) -> str:
    """Return the first of these columns that never falls, or never rises, from row to row.

    Empty without one.

    Its cells are numbers or dates, such as `2026-12-02`.
    """
    for name in names:
        cells = columns[name]
        if len(cells) >= MIN_ROWS and _is_ordered(cells):
            return name
    return ""


def _is_ordered(cells: Sequence[str]) -> bool:
    if not _never_turns(
        cells[:MIN_ROWS]
    ):  # most columns turn there, and a table may have millions of rows
        return False
    return len(set(cells)) >= MIN_DIFFERENT and _never_turns(cells)


def _never_turns(cells: Sequence[str]) -> bool:
    if max(map(len, cells)) > MAX_VALUE_LENGTH:
        return False
    values: NDArray[Any]
    if all(map(DATE.fullmatch, cells)):
        _, values = np.unique(cells, return_inverse=True)
    else:
        try:
            values = np.array(cells, dtype=float)
        except ValueError:
            return False
    with np.errstate(invalid="ignore"):  # infinity may follow itself
        steps = np.diff(values)
    never_falls = (steps >= 0).all()
    never_rises = (steps <= 0).all()
    return bool(never_falls or never_rises)


def likeness(rows: Tensor) -> str:
    """Return in words how alike neighbouring rows are, shape (N, F); empty if they are not."""
    if len(rows) < MIN_ROWS:
        return ""
    random = np.random.default_rng(0)
    first_P = random.integers(0, len(rows) - 1, NUM_PAIRS)
    other_P = random.integers(0, len(rows), NUM_PAIRS)
    here_PF = rows[first_P].numpy()
    beside_PF = rows[first_P + 1].numpy()
    others_PF = rows[other_P].numpy()
    shared = _shared(here_PF, beside_PF)
    by_chance = _shared(here_PF, others_PF)
    if shared >= SHARED and by_chance <= shared / 2:
        return f"neighbouring rows share {shared:.0%} of their values (others {by_chance:.0%})"
    scale_F = others_PF.std(axis=0)
    scale_F[scale_F == 0] = 1.0
    near = _distance(here_PF, beside_PF, scale_F)
    far = _distance(here_PF, others_PF, scale_F)
    if near <= NEAR * far and far > 0:
        return f"neighbouring rows are nearly equal (at {near / far:.0%} of the distance of others)"
    return ""


def _shared(a_PF: Numbers, b_PF: Numbers) -> float:
    """Return the mean part of a row's values that are also values of the other one."""
    num_shared = 0
    for a_F, b_F in zip(a_PF, b_PF, strict=True):
        num_shared += np.isin(b_F, a_F).sum()
    return float(num_shared / b_PF.size)


def _distance(a_PF: Numbers, b_PF: Numbers, scale_F: Numbers) -> float:
    distances_P = np.linalg.norm((a_PF - b_PF) / scale_F, axis=1)
    return float(np.median(distances_P))
