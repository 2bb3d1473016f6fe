"""Sums of gradients over processes, in the same order in each start."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from leyden.exact.memory import Reporter


def average_in_order(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over the processes, in the order of their ranks.

    This is a communication hook of DDP.
    DDP regroups gradients in its buckets after the first backward pass of each start. Their place
    decides in which order gloo's own sum adds them up, and sums of three or more numbers depend on
    their order: a resumed run would differ by rounding.
    """
    gradients = bucket.buffer()
    size = torch.distributed.get_world_size()
    if gradients.is_sparse:  # of one parameter
        torch.distributed.all_reduce(gradients)
    else:
        parts = [torch.empty_like(gradients) for _ in range(size)]
        torch.distributed.all_gather(parts, gradients)
        gradients.copy_(functools.reduce(torch.add, parts))
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(gradients.div_(size))
    return future


def fix_order_of_sums(model: Any, reporter: Reporter) -> None:
    """Make DDP add up gradients in the same order in each start; announce where it may not.

    The sum of two gradients has no order.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    size = torch.distributed.get_world_size()
    if size <= 2:
        return
    how: str = torch.distributed.get_backend()
    is_complex = any(each.is_complex() for each in model.parameters())
    if how == "gloo" and not is_complex:
        try:
            model.register_comm_hook(None, average_in_order)
            return
        except RuntimeError:  # there is a communication hook already
            how = "a communication hook"
    what = f"the gradients of {size} processes"
    reporter.announce(f"{how} may add up {what} in another order")
