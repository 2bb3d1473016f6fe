"""Resumed within an epoch, the Trainer draws other augmentations by NumPy: it reads a batch ahead."""

import tempfile

import numpy as np
import torch
from transformers import Trainer, TrainingArguments


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"x": torch.tensor([np.random.normal()])}


class Net(torch.nn.Linear):
    def forward(self, x):
        print(round(float(x), 4), end=" ")
        return {"loss": super().forward(x).mean()}


folder = tempfile.mkdtemp()
options = {"per_device_train_batch_size": 1, "save_steps": 3, "use_cpu": True, "report_to": []}
for title, path in [("undisturbed", None), ("\nresumed after step 3", f"{folder}/checkpoint-3")]:
    print(title, end=": ")
    args = TrainingArguments(folder, num_train_epochs=1, seed=0, disable_tqdm=True, **options)
    Trainer(Net(1, 1), args, train_dataset=Noisy()).train(resume_from_checkpoint=path)
