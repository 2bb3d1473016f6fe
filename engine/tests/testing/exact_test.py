"""Asks whether a training resumes to the same bits: python exact_test.py [--forget]."""

import sys

import torch
from torch.utils.data import DataLoader

from leyden.exact import Loop, test

IS_FORGETFUL = "--forget" in sys.argv
NOTES = [0.0]  # of a file, which is not looked at


def make(folder):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = DataLoader(torch.randn(60, 4), 6, shuffle=True)
    for _, batch in Loop(folder, model=net, optimizer=optimizer).steps(loader, epochs=100):
        optimizer.zero_grad()
        (net(batch).square().mean() * (1 + NOTES[0])).backward()
        optimizer.step()
        NOTES[0] += IS_FORGETFUL


if __name__ == "__main__":
    sys.exit(0 if test(make) else 1)
