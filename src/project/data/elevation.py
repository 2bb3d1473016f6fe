"""Heights of the ground, from matplotlib's sample data."""

import numpy as np
import torch
from matplotlib import cbook
from torch.utils.data import Dataset

EVERY = 10  # one point in so many is of the test set


class Elevation(Dataset[None]):
    """`data`, (N, 2) float32: longitude and latitude in degrees; `targets`, (N,) float32: height in hundreds of metres.

    138,632 points of a grid around Jacksboro, Tennessee, from 236 to 1,076 m, of which every tenth is of the test set.
    Source: U.S. Geological Survey's elevation data, as matplotlib ships them in `jacksboro_fault_dem.npz`.

    Args:
        root: Not used: the file lies in the package.
        train: Whether it is the training set.
        download: Not used.
    """

    target_names = ("height in 100 m",)
    facts = {"column_names": ["longitude", "latitude"]}  # noqa: RUF012 - a constant of the class

    def __init__(self, root: str, *, train: bool, download: bool = False) -> None:
        with np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
            heights = file["elevation"].astype(np.float32) / 100
            longitudes = np.linspace(file["xmin"], file["xmax"], heights.shape[1], dtype=np.float32)
            latitudes = np.linspace(file["ymin"], file["ymax"], heights.shape[0], dtype=np.float32)
        places = np.stack(np.meshgrid(longitudes, latitudes), axis=-1).reshape(-1, 2)
        is_test = np.arange(len(places)) % EVERY == 0
        chosen = ~is_test if train else is_test
        self.data, self.targets = torch.from_numpy(places[chosen]), torch.from_numpy(heights.reshape(-1)[chosen])
