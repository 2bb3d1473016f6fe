"""fastai's fit(start_epoch=…) with EarlyStoppingCallback ends with an IndexError in the epochs that it skips."""

import tempfile

import torch
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner

folder = tempfile.mkdtemp()
data = [(torch.ones(1), torch.ones(1))] * 8


def fit(epochs, start_epoch):
    loaders = DataLoaders(*(DataLoader(data, bs=4, num_workers=0) for _ in range(2)))
    saves = SaveModelCallback(every_epoch=True, with_opt=True)
    stops = EarlyStoppingCallback(patience=2)
    net = torch.nn.Linear(1, 1)
    learner = Learner(loaders, net, torch.nn.MSELoss(), path=folder, cbs=[saves, stops])
    if start_epoch:
        learner.load(f"model_{start_epoch - 1}", with_opt=True)
    with learner.no_bar():
        learner.fit(epochs, start_epoch=start_epoch)


fit(2, 0)
print("resumed")
fit(4, 2)
