"""fastai's saved model has no random state: a resumed epoch is shuffled as the first one."""

import tempfile

import torch
from fastai.basics import DataLoader, DataLoaders, Learner, set_seed
from fastai.callback import progress  # noqa: F401


class Net(torch.nn.Linear):
    def forward(self, x):
        if self.training:
            print(int(x), end=" ")
        return super().forward(x)


data = [(torch.tensor([float(i)]), torch.ones(1)) for i in range(8)]
folder = tempfile.mkdtemp()
for title, epochs, start in [("2 epochs", 2, 0), ("\n1 epoch", 1, 0), ("\nresumed", 2, 1)]:
    print(title, end=": ")
    set_seed(0)
    loaders = DataLoaders(DataLoader(data, bs=1, shuffle=True), DataLoader(data, bs=8))
    learner = Learner(loaders, Net(1, 1), torch.nn.MSELoss(), lr=0.0, path=folder, cbs=[])
    if start:
        learner.load("model", with_opt=True)
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, start_epoch=start)
    learner.save("model", with_opt=True)
