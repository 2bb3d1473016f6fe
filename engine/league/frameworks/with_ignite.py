"""PyTorch Ignite's deterministic engine, saved at epochs' ends: with_ignite.py DIR SCENARIO [--within]."""

import os
import sys
from pathlib import Path

import ignite.distributed as idist
import task
import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping, EMAHandler
from ignite.handlers.param_scheduler import ReduceLROnPlateauScheduler
from ignite.metrics import Loss
from torch.nn.functional import mse_loss


def main(folder, scenario, is_within):
    if scenario == "ddp":
        idist.initialize("gloo")
    task.seed()
    bare = task.make_net(scenario)
    net = idist.auto_model(bare)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    loader = task.make_loader(scenario, idist.auto_dataloader)
    trainer = create_supervised_trainer(
        net, optimizer, mse_loss, deterministic=scenario != "stream",  # needs an epoch's length
        gradient_accumulation_steps=2 if scenario == "accumulate" else 1,
    )  # fmt: skip
    evaluator = create_supervised_evaluator(net, {"loss": Loss(mse_loss)})
    parts = {"net": bare, "optimizer": optimizer, "trainer": trainer}
    if scenario in task.WITH_VALIDATION:
        validate = lambda: evaluator.run(task.make_val_loader(scenario))  # noqa: E731
        trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    if scenario == "ema":
        average = EMAHandler(bare, momentum=0.1)
        average.attach(trainer)
        parts["average"] = average.ema_model
    elif scenario == "stream":
        parts["stream"] = loader.dataset
    elif scenario == "plateau":
        parts["schedule"] = ReduceLROnPlateauScheduler(optimizer, "loss", patience=1)
        evaluator.add_event_handler(Events.COMPLETED, parts["schedule"])
    elif scenario == "early":
        parts["stop"] = EarlyStopping(2, lambda engine: -engine.state.metrics["loss"], trainer)
        evaluator.add_event_handler(Events.COMPLETED, parts["stop"])
    within = Events.ITERATION_COMPLETED(every=task.EVERY_N_STEPS)
    every = within if is_within else Events.EPOCH_COMPLETED
    saver = DiskSaver(folder, require_empty=False)
    trainer.add_event_handler(every, Checkpoint(parts, saver, n_saved=2))
    for path in sorted(Path(folder).glob("*.pt"), key=os.path.getmtime)[-1:]:
        Checkpoint.load_objects(parts, checkpoint=torch.load(path, weights_only=False))
    marked = [bare, parts.get("average")]
    mark = lambda it: task.mark(it.state.iteration, marked, optimizer, it.state.batch)  # noqa: E731
    trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
    trainer.run(loader, max_epochs=task.num_epochs(scenario), epoch_length=task.NUM_BATCHES)
    task.mark("end", marked)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--within" in sys.argv)
