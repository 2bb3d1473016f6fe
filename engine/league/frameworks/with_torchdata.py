"""A loop with StatefulDataLoader that keeps what PyTorch's pages name: python with_torchdata.py DIR SCENARIO."""

import os
import sys
from pathlib import Path

import task
import torch
from torch import distributed, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler


def main(folder, scenario):
    task.seed()
    path = Path(folder) / f"last{os.environ.get('RANK', '')}.pt"
    model = net = task.make_net(scenario)
    restored = make_sampler = None
    if scenario == "ddp":
        distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(net)
        make_sampler = StatefulDistributedSampler
    loader = task.make_loader(scenario, StatefulDataLoader, task.NoisySamples, make_sampler)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule, average = ReduceLROnPlateau(optimizer, patience=1), task.make_average(net)
    progress = task.Progress()
    parts = [net, optimizer, loader, schedule, average, progress]
    if path.exists():
        saved = torch.load(path, weights_only=False)
        for part, state in zip(parts, saved["parts"], strict=True):
            part.load_state_dict(state)
        restored = saved["random"]
    while progress.epoch < task.num_epochs(scenario):
        if scenario == "ddp":
            loader.sampler.set_epoch(progress.epoch)
        batches = iter(loader)  # which draws a random number
        if restored:
            task.set_random_states(restored)
        restored = None
        for batch in batches:
            nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
            progress.count_batch()
            if scenario != "accumulate" or progress.step % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(net)
            if progress.step % task.EVERY_N_STEPS == 0:
                states = [part.state_dict() for part in parts]
                task.save({"parts": states, "random": task.random_states()}, path)
            task.mark(progress.step, [net, average], [optimizer, schedule], batch)
            if scenario == "stream" and progress.batch == task.NUM_BATCHES:
                break
        if progress.end_epoch(net, scenario, schedule):
            break
    task.mark("end", net)


if __name__ == "__main__":
    main(*sys.argv[1:])
