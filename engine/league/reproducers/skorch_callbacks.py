"""skorch's Checkpoint leaves out the state of callbacks: a resumed EarlyStopping begins to count anew."""

import tempfile

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Checkpoint, EarlyStopping, LoadInitState
from skorch.helper import predefined_split

data = torch.utils.data.TensorDataset(torch.ones(8, 1), torch.ones(8, 1))
val = torch.utils.data.TensorDataset(torch.ones(8, 1), -torch.ones(8, 1))


def fit(folder, epochs):
    torch.manual_seed(0)
    saves = Checkpoint(monitor=None, dirname=folder)
    stops = EarlyStopping(patience=3)
    net = NeuralNetRegressor(
        torch.nn.Linear(1, 1), max_epochs=epochs, train_split=predefined_split(val), verbose=0,
        callbacks=[saves, LoadInitState(saves), ("stops", stops)],
    )  # fmt: skip
    net.fit(data, y=None)
    return len(net.history)


print("undisturbed: stopped after epoch", fit(tempfile.mkdtemp(), 10))
folder = tempfile.mkdtemp()
fit(folder, 2)
print("resumed after epoch 2: stopped after epoch", fit(folder, 8))
