"""Saved amid an accumulation, Ignite's checkpoint leaves out the gradients that were added up."""

import torch
from ignite.engine import create_supervised_trainer

data = [(torch.ones(1, 1), torch.ones(1, 1))] * 3


def run(epochs, saved=None):
    net = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    how = {"gradient_accumulation_steps": 2, "deterministic": True}
    trainer = create_supervised_trainer(net, optimizer, torch.nn.functional.mse_loss, **how)
    if saved:
        net.load_state_dict(saved[0])
        trainer.load_state_dict(saved[1])
    trainer.run(data, max_epochs=epochs)
    return net.state_dict(), trainer.state_dict()


print("undisturbed:", float(run(2)[0]["weight"]))
saved = run(1)
saved[1]["max_epochs"] = 2
print("resumed after batch 3:", float(run(2, saved)[0]["weight"]))
