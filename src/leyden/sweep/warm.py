"""What the processes of a sweep are copies of: it has imported all, has read the data set, and has started nothing."""

import contextlib
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads would be lost in a copy, which has its own number of them

from leyden.config.importing import importing
from leyden.data import reading

with importing():
    from omegaconf import OmegaConf

    import leyden.training.start  # noqa: F401 - and all that it stands on
    from leyden import build

reading.keep()
if node := os.environ.pop("LEYDEN_SWEEP_DATA", None):
    build.quiet()
    with contextlib.suppress(Exception):  # what is wrong with the data is told by the checks, which come next
        build.datamodule(OmegaConf.create({"data": json.loads(node)}))
