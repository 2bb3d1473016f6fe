"""A restored ReduceLROnPlateauScheduler of Ignite has the `_reduce_lr` of the saved one, for a copy of the optimizer."""

import io

import torch
from ignite.engine import Engine
from ignite.handlers.param_scheduler import ReduceLROnPlateauScheduler


def make():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, ReduceLROnPlateauScheduler(optimizer, "loss", patience=0)


engine = Engine(lambda engine, batch: None)
engine.state.metrics["loss"] = 1.0
optimizer, schedule = make()
schedule(engine)
file = io.BytesIO()
torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
schedule(engine)
print("undisturbed: lr", optimizer.param_groups[0]["lr"])
file.seek(0)
saved = torch.load(file, weights_only=False)
optimizer, schedule = make()
optimizer.load_state_dict(saved["optimizer"])
schedule.load_state_dict(saved["schedule"])
schedule(engine)
print("resumed: lr", optimizer.param_groups[0]["lr"])
