"""The threads, processes and GPUs of a run, and whether this machine has them."""

from typing import Any

from leyden.config.importing import importing
from leyden.config.mistakes import UserError
from leyden.config.terminal import warn
from leyden.run.contents import RunContents
from leyden.run.machine import machine
from leyden.run.process import num_cores

MOST = 1024  # threads of a process that are believed


def accelerator(run: RunContents) -> str:
    """What the run is to be computed by, for `trainer.accelerator`.

    Raises:
        UserError: This machine does not have it.
    """
    trainer, there = _trainer(run), _machine(run)
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run on several machines is not made anew by one"
        )
    asked = str(trainer.get("accelerator", "auto"))
    gpus_there = there.get("gpus") or (["a GPU"] if asked in ("gpu", "cuda") else [])
    if asked not in ("auto", "gpu", "cuda"):
        return asked
    with importing():
        gpus_here = machine()["gpus"]
    if gpus_there and not gpus_here:
        raise UserError(f"the run was trained by {gpus_there[0]}, and there is no GPU here that PyTorch can use")
    if there and gpus_there and trainer.get("devices") in ("auto", -1) and len(gpus_there) != len(gpus_here):
        raise UserError(
            f"the run was trained by all {len(gpus_there)} GPUs of its machine, this one has {len(gpus_here)}"
        )
    # `auto` there was the processor, and would be a GPU here.
    return "cpu" if gpus_here and there and not gpus_there else asked


def threads(run: RunContents) -> int | None:
    """How many threads each of the run's processes had, None if that is not known.

    The number can change bits: sums are split among threads.
    """
    there, devices = _machine(run), _trainer(run).get("devices", 1)
    number, cores = there.get("threads"), there.get("cores")
    if type(number) is not int or type(cores) is not int or not 1 <= number <= MOST:
        warn("the run has not written down its number of threads, on which bits can depend; threads=N sets one")
        return None
    if type(devices) is int and devices > 1 and not there.get("threads_are_set"):
        number = max(1, cores // devices)  # as Lightning does
    if number > num_cores():
        warn(f"the run had {number} threads, and this machine has {num_cores()} cores: it takes longer")
    return number


def _machine(run: RunContents) -> dict[str, Any]:
    """As the last start that trained has told of it."""
    told = [each for start in run.starts if isinstance(each := start.get("machine"), dict)]
    return told[-1] if told else {}


def _trainer(run: RunContents) -> dict[str, Any]:
    return part if isinstance(part := run.recorded.get("trainer"), dict) else {}
