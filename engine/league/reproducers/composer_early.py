"""Composer's checkpoint leaves out what EarlyStopper has counted: resumed, it stops later."""

import tempfile

import torch
from composer import Trainer
from composer.callbacks import EarlyStopper
from composer.models import ComposerClassifier

data = torch.utils.data.DataLoader([(torch.ones(1), 0)] * 4, batch_size=4)


def fit(title, folder, epochs):
    net = ComposerClassifier(torch.nn.Linear(1, 2), num_classes=2)
    stops = EarlyStopper("MulticlassAccuracy", "eval", min_delta=2.0, patience=3)
    options = {"save_folder": folder, "run_name": "run", "autoresume": True, "device": "cpu"}
    options |= {"train_dataloader": data, "eval_dataloader": data, "callbacks": stops}
    trainer = Trainer(model=net, max_duration=f"{epochs}ep", **options)
    trainer.fit()
    print(title, "ended after epoch", int(trainer.state.timestamp.epoch))


fit("undisturbed:", tempfile.mkdtemp(), 10)
folder = tempfile.mkdtemp()
fit("before:", folder, 2)
fit("resumed:", folder, 10)
