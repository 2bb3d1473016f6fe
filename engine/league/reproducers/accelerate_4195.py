"""accelerate #4195: of a shuffled StatefulDataLoader in several processes, the position is restored, not the order."""

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from torch.utils.data import DataLoader


def make_loader():
    set_seed(0)
    return prepare_data_loader(
        DataLoader(torch.arange(16), batch_size=2, shuffle=True),
        num_processes=2,
        process_index=0,
        put_on_device=False,
        use_stateful_dataloader=True,
    )


loader = make_loader()
print("epoch 0:", [batch.tolist() for batch in loader])
batches = iter(loader)
print("epoch 1, first batch:", next(batches).tolist())
state = loader.state_dict()
print("undisturbed:", [batch.tolist() for batch in batches])
resumed = make_loader()
resumed.load_state_dict(state)
print("resumed:", [batch.tolist() for batch in resumed])
