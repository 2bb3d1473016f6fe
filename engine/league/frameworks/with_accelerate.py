"""A loop with accelerate, as its page on checkpoints: python with_accelerate.py DIR SCENARIO [--stateful]."""

import os
import sys
from pathlib import Path

import task
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import ReduceLROnPlateau


def main(folder, scenario, is_stateful):
    set_seed(0)
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2 if scenario == "accumulate" else 1,
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True, use_stateful_dataloader=is_stateful
        ),
    )
    net = task.make_net(scenario)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = ReduceLROnPlateau(optimizer, patience=1)
    average = task.make_average(net)
    progress = task.Progress()
    generator = torch.Generator()  # so that an iterator draws no number of the training
    loader = task.make_loader(scenario, samples=task.NoisySamples, generator=generator)
    model, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    accelerator.register_for_checkpointing(progress, average, schedule)
    saved = sorted(Path(folder).glob("step_*"), key=os.path.getctime)
    if saved:
        accelerator.load_state(str(saved[-1]))
    while progress.epoch < task.num_epochs(scenario):
        loader.set_epoch(progress.epoch)
        rest = loader
        if progress.batch and not is_stateful:
            rest = accelerator.skip_first_batches(loader, progress.batch)
        for batch in rest:
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(batch[0]), batch[1]))
                optimizer.step()
                optimizer.zero_grad()
            average.update_parameters(net)
            progress.count_batch()
            if progress.step % task.EVERY_N_STEPS == 0 and accelerator.sync_gradients:
                accelerator.save_state(f"{folder}/step_{progress.step}")
            task.mark(progress.step, [net, average], [optimizer, schedule], batch)
            if scenario == "stream" and progress.batch == task.NUM_BATCHES:
                break
        if progress.end_epoch(net, scenario, schedule):
            break
    task.mark("end", net)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--stateful" in sys.argv)
