"""A loop as one writes it by hand: data in memory, nothing logged, nothing validated."""

import json
import time

import torch
import torch.nn.functional as F
from project.data.mnist import MNIST
from torch import nn

from leyden.base.paths import root
from leyden.files import load

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
data = load(MNIST, root() / "data", train=True, download=True)
images = data.data[:55_000].reshape(-1, 784).float().div(255).to(device)
labels = data.targets[:55_000].to(device)
network = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)).to(device)
optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)

start, cpu = time.perf_counter(), time.process_time()
for _ in range(5):
    for index in torch.randperm(len(images), device=device).split(128):
        loss = F.cross_entropy(network(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
if device.type == "cuda":
    torch.cuda.synchronize()
seconds = {"fit_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
print(json.dumps({**seconds, "loss": loss.item()}))
