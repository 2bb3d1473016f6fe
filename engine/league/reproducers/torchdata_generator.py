"""With a generator of its own, a resumed StatefulDataLoader shuffles the next epoch in another order."""

import torch
from torchdata.stateful_dataloader import StatefulDataLoader


def make():
    generator = torch.Generator().manual_seed(0)
    return StatefulDataLoader(torch.arange(8), shuffle=True, generator=generator)


loader = make()
batches = iter(loader)
next(batches)
state = loader.state_dict()
print("undisturbed:", [int(batch) for batch in batches])
print("epoch 1:", [int(batch) for batch in loader])
loader = make()
loader.load_state_dict(state)
print("resumed:", [int(batch) for batch in loader])
print("epoch 1 of the resumed:", [int(batch) for batch in loader])
