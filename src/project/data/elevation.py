"""Heights of the ground, from matplotlib's sample data."""

import numpy as np
import torch
from matplotlib import cbook
from torch.utils.data import Dataset

TEST_EVERY = 10  # every tenth point is in the test set


class Elevation(Dataset[None]):
    """Elevations of 138,632 grid points around Jacksboro, Tennessee, from 236 to 1,076 m.

    `data` has shape (N, 2), float32: longitude and latitude in degrees. `targets` has shape (N,),
    float32: height in hundreds of metres. Every tenth point is in the test set.

    Source: U.S. Geological Survey's elevation data, from matplotlib's `jacksboro_fault_dem.npz`.

    Args:
        root: Not used, as matplotlib contains the file.
        train: True for the training set, False for the test set.
        download: Not used.
    """

    target_names = ("height in 100 m",)
    random_split = True  # heights between known ones are the task
    facts = {"column_names": ["longitude", "latitude"]}  # noqa: RUF012 - a constant of the class

    def __init__(self, root: str, *, train: bool, download: bool = False) -> None:
        path = cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)
        with np.load(path) as file:
            metres_HW = file["elevation"].astype(np.float32)
            west = file["xmin"]
            east = file["xmax"]
            south = file["ymin"]
            north = file["ymax"]
        num_rows, num_columns = metres_HW.shape
        longitudes = np.linspace(west, east, num_columns, dtype=np.float32)
        latitudes = np.linspace(south, north, num_rows, dtype=np.float32)
        grid = np.meshgrid(longitudes, latitudes)
        points_HW2 = np.stack(grid, axis=-1)
        points_N2 = points_HW2.reshape(-1, 2)
        heights_N = metres_HW.reshape(-1) / 100
        numbers_N = np.arange(len(heights_N))
        is_test_N = numbers_N % TEST_EVERY == 0
        chosen_N = is_test_N
        if train:
            chosen_N = ~is_test_N
        self.data = torch.from_numpy(points_N2[chosen_N])
        self.targets = torch.from_numpy(heights_N[chosen_N])
