"""What a run is computed by, as far as it can change a bit."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from leyden.run.process import num_cores


def machine() -> dict[str, Any]:
    """System, processor, its instructions that PyTorch uses, threads, GPUs.

    `threads` are those of PyTorch in this process. Where `OMP_NUM_THREADS` did not set them (`threads_are_set`), Lightning gives each
    of several processes its part of the `cores`.
    """
    import torch

    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "threads_are_set": "OMP_NUM_THREADS" in os.environ,
        "gpus": [torch.cuda.get_device_name(number) for number in cuda],
    }


def _cpu() -> str:
    """The name of the processor; Python knows it on some systems only."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
