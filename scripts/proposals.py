"""Ten proposals, one after the other, for `leyden propose -- python scripts/proposals.py`; yours may come from a program."""

import os

PROPOSALS = [
    "model.hidden_sizes=[1024]",
    "model.hidden_sizes=[512,512]",
    "model.dropout=0.2",
    "optimizer=adam",
    "optimizer.lr=0.003",
    "optimizer.lr=0.0001",
    "data.batch_size=32",
    "task.label_smoothing=0.1",
    "optimizer.lr=1e30",  # crashes while it trains
    "model.hidden_sizes=[0]",  # is refused before it trains
    "",  # nothing more
]
print(PROPOSALS[int(os.environ["LEYDEN_PROPOSAL"]) - 1])
