"""What of a module is not trained, by patterns of names."""

from collections.abc import Sequence

from torch import nn

from leyden.tasks.patterns import matching


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Let what matches stay as it is in training, whoever makes the optimizer: parameters and running statistics.

    A layer whose `running_mean` matches, as that of a BatchNorm does by `network.layers.1.*` and does not by `*.weight`, is
    in evaluation mode in training, too: it normalises by its running statistics, which stay. Where the parameters of such
    a layer match alone, these stay, and its statistics go on to follow the batches.

    Args:
        module: Of which the parameters and running statistics are.
        patterns: Of their names, as `state_dict()` has them.

    Raises:
        ValueError: A pattern matches nothing, or nothing is left to train.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        >>> freeze(layers, ["1.*", "0.weight"])
        >>> layers[1].training, [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
        (False, ['0.bias', '2.weight', '2.bias'])
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    statistics = [name for name, _ in module.named_buffers() if name.endswith("running_mean")]
    for name in matching([*parameters, *statistics], patterns):
        if name in parameters:
            parameters[name].requires_grad_(False)
        else:
            # Of this layer alone; Lightning gives it back after each validation.
            module.get_submodule(name.rpartition(".")[0]).training = False
    if patterns and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError("leaves no parameter to train")
