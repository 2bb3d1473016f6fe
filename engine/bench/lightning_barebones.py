"""The cost of Lightning's own loop: data in memory, all that can be switched off is off, nothing logged or validated."""

import json
import logging
import time
import warnings
from collections.abc import Iterator

import lightning as L
import torch
import torch.nn.functional as F
from project.data.mnist import MNIST
from torch import nn

from leyden.base.paths import root
from leyden.files import load

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(L.LightningModule):
    """The least there can be."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """PyTorch's RMSprop."""
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)


class Batches:
    """Batches of tensors in memory, in a new order each epoch."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for index in torch.randperm(len(self.tensors[0]), device=self.tensors[0].device).split(128):
            yield [tensor[index] for tensor in self.tensors]

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // 128)


L.seed_everything(0, verbose=False)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
data = load(MNIST, root() / "data", train=True, download=True)
images = data.data[:55_000].reshape(-1, 784).float().div(255).to(device)
labels = data.targets[:55_000].to(device)
trainer = L.Trainer(max_epochs=5, barebones=True)
start, cpu = time.perf_counter(), time.process_time()
trainer.fit(Module(), Batches(images, labels))
if device.type == "cuda":
    torch.cuda.synchronize()
seconds = {"fit_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
print(json.dumps(seconds))
