"""A plain PyTorch loop that resumes from its checkpoint: python loop.py DIR [--forget]."""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from leyden.exact import mark

NUM_STEPS = 40
EVERY_N_STEPS = 8


def main(path, forgets_sampler):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    data = TensorDataset(torch.randn(60, 4), torch.randn(60, 1))
    generator = torch.Generator()
    # Steps in all, batches of this epoch that are done, and the generator at the epoch's start
    step = 0
    skipped = 0
    order = torch.Generator().manual_seed(1).get_state()
    if path.exists():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        step = saved["step"]
        if not forgets_sampler:
            order = saved["order"]
            skipped = saved["skipped"]
    while step < NUM_STEPS:
        generator.set_state(order)
        random = torch.get_rng_state()
        for index, (x, y) in enumerate(
            DataLoader(data, 6, sampler=RandomSampler(data, generator=generator))
        ):
            if index < skipped or step == NUM_STEPS:
                continue
            if index == skipped:
                torch.set_rng_state(random)  # an iterator of a loader draws a number as it begins
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
            step += 1
            if step % EVERY_N_STEPS == 0:
                state = {
                    "net": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "order": order,
                    "random": torch.get_rng_state(),
                    "skipped": index + 1,
                }
                torch.save(state, path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
            mark(step, net, optimizer, (x, y))
        order = generator.get_state()
        skipped = 0


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "last.pt", "--forget" in sys.argv)
