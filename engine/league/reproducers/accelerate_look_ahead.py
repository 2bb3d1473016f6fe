"""accelerate reads a batch ahead, so that random numbers of the next batch are drawn before save_state."""

import tempfile

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([np.random.normal()])


folder = tempfile.mkdtemp()
np.random.seed(0)
accelerator = Accelerator(cpu=True)
loader = accelerator.prepare(DataLoader(Noisy()))
for index, batch in enumerate(loader):
    print("undisturbed, batch", index, float(batch))
    if index == 1:
        accelerator.save_state(folder)
accelerator.load_state(folder)
for index, batch in enumerate(accelerator.skip_first_batches(loader, 2), 2):
    print("resumed, batch", index, float(batch))
