"""A recorded series, cut into windows, with what follows each: a forecast."""

from collections.abc import Sequence

import numpy as np
import torch
from leyden.data import check_integers
from matplotlib import cbook
from torch.utils.data import Dataset

NUM_TEST = 2000  # samples, the last ones


class Membrane(Dataset[None]):
    """Windows of a membrane's potential, 12,000 samples in 6 s, and samples after each window.

    `data` has shape (N, context), float32; `targets` (N, H), float32, in mV. Training and test set
    share no sample. By `overlap`, nor do training and validation: the latter is the end, and the
    windows that reach into it are left out.

    Source: matplotlib's sample data `membrane.dat`.

    Args:
        root: Not used, as matplotlib contains the file.
        train: True for the training set, False for the test set.
        download: Not used.
        context: Samples in a window.
        horizons: How many samples after the window's last one each target is.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        root: str,
        *,
        train: bool,
        download: bool = False,
        context: int,
        horizons: Sequence[int],
    ) -> None:
        check_integers(context=(context, 1))
        for horizon in horizons:
            check_integers(horizons=(horizon, 1))
        length = context + max(horizons, default=NUM_TEST)
        if length > NUM_TEST:
            given = f"context={context}, horizons={horizons}"
            raise ValueError(f"{given}: must be {NUM_TEST:,} samples at most, together")
        path = cbook.get_sample_data("membrane.dat", asfileobj=False)
        series = np.fromfile(path, dtype=np.float32)
        part = series[:-NUM_TEST] if train else series[-NUM_TEST:]
        windows_NT = torch.from_numpy(part).unfold(0, length, 1)
        self.data = windows_NT[:, :context].contiguous()
        columns = [context - 1 + horizon for horizon in horizons]
        self.targets = windows_NT[:, columns]
        self.target_names = [f"sample +{horizon}" for horizon in horizons]
        self.overlap = length - 1
