"""skorch's Checkpoint has no random state: a resumed epoch is shuffled as the first one."""

import tempfile

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Checkpoint, LoadInitState


class Net(torch.nn.Linear):
    def forward(self, x):
        print(int(x), end=" ")
        return super().forward(x)


def fit(title, folder, epochs):
    print(title, end=": ")
    torch.manual_seed(0)
    saves = Checkpoint(monitor=None, dirname=folder)
    net = NeuralNetRegressor(
        Net(1, 1), max_epochs=epochs, batch_size=1, iterator_train__shuffle=True, verbose=0,
        train_split=None, callbacks=[saves, LoadInitState(saves)],
    )  # fmt: skip
    net.fit(torch.arange(8.0).reshape(8, 1), torch.ones(8, 1))


fit("2 epochs", tempfile.mkdtemp(), 2)
folder = tempfile.mkdtemp()
fit("\n1 epoch", folder, 1)
fit("\nresumed for one more", folder, 1)
