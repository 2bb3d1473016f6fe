"""A sum over V leaves in one fixed order, whichever processes hold them.

The order is a balanced binary tree over all leaves: node (level, index) is the sum of the leaves
from `index * 2**level` on, `2**level` of them or those that there are. Each process has a block of
leaves in a row, and adds up the nodes that lie in it. Processes exchange these.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, distributed

Node = tuple[int, int]
_T = TypeVar("_T")


def block(rank: int, size: int, num_leaves: int) -> range:
    """Return the leaves of a process, of several that have as many each."""
    num = num_leaves // size
    return range(rank * num, (rank + 1) * num)


class Tree:
    """The tree over some leaves, of which this process has a block.

    Args:
        num_leaves: Number of leaves.
        rank: Rank of this process.
        size: Number of processes, which divides that of the leaves.
    """

    def __init__(self, num_leaves: int, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.num_leaves = num_leaves
        self.root: Node = ((num_leaves - 1).bit_length(), 0)
        self.owners: dict[Node, int] = {}  # of the nodes that processes hold, from left to right
        for each in range(size):
            held: dict[Node, None] = {}
            for leaf in block(each, size, num_leaves):
                self.hold(held, (0, leaf), None, lambda left, right: None)
            self.owners |= dict.fromkeys(held, each)

    def hold(
        self, held: dict[Node, _T], node: Node, value: _T, add: Callable[[_T, _T], _T]
    ) -> None:
        """Add the next node to the right to those that are held."""
        while node != self.root:
            level, index = node
            left = (level, index - 1)
            has_sibling = (index + 1) << level < self.num_leaves
            if index % 2 and left in held:
                value = add(held.pop(left), value)
            elif index % 2 or has_sibling:
                break  # its sibling comes later, or is another process's
            node = (level + 1, index // 2)
        held[node] = value

    def total(self, held: dict[Node, Tensor]) -> Tensor:
        """Return the sum of all leaves, from the nodes that each process holds.

        All processes must call this. The tensors are used up.
        """
        if self.size == 1:
            return held[self.root]
        is_power_of_two = self.size & (self.size - 1) == 0
        if is_power_of_two and len(self.owners) == self.size:
            return self._total_in_pairs(*held.values())
        example = next(iter(held.values()))
        every: dict[Node, Tensor] = {}
        for node, owner in self.owners.items():
            value = held[node] if owner == self.rank else torch.empty_like(example)
            distributed.broadcast(value, owner)
            self.hold(every, node, value, torch.Tensor.add_)
        return every[self.root]

    def _total_in_pairs(self, mine: Tensor) -> Tensor:
        """Return the sum of all leaves, where each process holds one node of the same level."""
        other = torch.empty_like(mine)
        distance = 1
        while distance < self.size:
            peer = self.rank ^ distance
            pair = [
                distributed.P2POp(distributed.isend, mine, peer),
                distributed.P2POp(distributed.irecv, other, peer),
            ]
            for work in distributed.batch_isend_irecv(pair):
                work.wait()
            mine.add_(other)  # the sum of two numbers has no order
            distance *= 2
        return mine
