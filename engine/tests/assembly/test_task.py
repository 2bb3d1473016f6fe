"""A network is tried by a batch of two, before it trains."""

import torch
from torch import nn

from leyden.assembly.task import check_step
from leyden.data.contract import Facts
from leyden.tasks import Classification


def test_it_is_tried_as_it_is_not_compiled_for_two_samples():
    """A compiler takes half a minute for a batch of another size than that of training."""
    shapes = []

    def backend(graph, inputs):
        shapes.append(inputs)
        return graph.forward

    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    module = Classification(network=torch.compile(network, backend=backend))
    check_step(module, Facts(input_shape=(1, 2, 2), num_classes=3))
    assert not shapes
    module.step((torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)))
    assert shapes
