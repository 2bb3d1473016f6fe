"""A plain PyTorch loop with `Loop`, of one or several processes: python exact_loop.py DIR [--stop SIGNAL]."""

import os
import sys

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from leyden.exact import Loop


def main(folder, stop):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(120, 4), torch.randn(120, 1))
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )
    loader = DataLoader(data, 12, shuffle=True)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        net = DistributedDataParallel(net, broadcast_buffers=False)
        loader = DataLoader(data, 6, sampler=DistributedSampler(data))
    optimizer = torch.optim.Adam(net.parameters())
    loop = Loop(folder, seed=0, model=net, optimizer=optimizer, every_n_steps=4)
    for step, (x, y) in loop.steps(loader, epochs=3):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        loop.log(step, loss=loss)
        if stop and step == 11:
            os.kill(os.getpid(), stop)
    if "RANK" in os.environ:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]) if "--stop" in sys.argv else 0)
    if "RANK" in os.environ:
        # Else gloo aborts one process of 252 while Python ends: pytorch/pytorch, issue 190489.
        os._exit(0)
