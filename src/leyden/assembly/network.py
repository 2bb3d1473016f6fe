"""The network of a run."""

import contextlib

import torch
from omegaconf import DictConfig

from leyden.assembly.instantiate import instantiate, user_errors
from leyden.config.mistakes import UserError
from leyden.data.facts import Facts
from leyden.tasks.task import Task


def network(cfg: DictConfig, facts: Facts) -> torch.nn.Module:
    """The network that `cfg.model` describes, for data with these facts."""
    module: torch.nn.Module = instantiate(cfg.model, "model", facts.by_name)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"model: makes a {type(module).__name__}; must be a torch.nn.Module")
    # Convolutions are faster so, on a CPU and on a GPU in half precision; other layers don't mind.
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_logits(module: torch.nn.Module, facts: Facts) -> None:
    """Make sure that a network takes the samples and gives one logit per class, before hours of something else.

    Of data that don't say their shape, or are no numbers, this is not known.

    Raises:
        UserError: It does not; or an error of its own, which shows its line.
    """
    if facts.input_shape is None or facts.num_classes is None or facts.vocabulary is not None:
        return
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    samples = torch.zeros(2, *facts.input_shape, device=device)
    module.eval()  # draws no random numbers, and leaves running means alone
    with torch.no_grad(), user_errors(f"model, given samples of shape {tuple(samples.shape)}", runs=True):
        try:
            logits_NK = module(samples)
        except NotImplementedError:
            if device.type == "meta":  # it does what can't be foreseen: the run itself checks it again
                return
            raise
    module.train()
    expected = (2, facts.num_classes)
    found = tuple(logits_NK.shape) if isinstance(logits_NK, torch.Tensor) else type(logits_NK).__name__
    if found != expected:
        raise UserError(
            f"model: gives {found} for samples of shape {tuple(samples.shape)}; must be logits of shape "
            f"{expected}, one per class"
        )


def check_step(module: Task, facts: Facts) -> None:
    """Make sure that a task can learn from data with these facts; of what they don't say, this is not known.

    Raises:
        UserError: It can't; or an error of its own, which shows its line.
    """
    if module.kind in ("classes", "values", "text") and facts.kind not in ("", module.kind):
        raise UserError(
            f"task: {type(module).__name__} learns {module.kind}; the targets of these data are {facts.kind}"
        )
    if facts.input_shape is None or not facts.num_outputs:
        return
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    is_text = facts.vocabulary is not None
    inputs = torch.zeros(2, *facts.input_shape, device=device, dtype=torch.int64 if is_text else torch.float32)
    if facts.num_classes is not None:
        targets = inputs.new_zeros(2, dtype=torch.int64)
    else:
        targets = (
            inputs if is_text else inputs.new_zeros(2, *([] if facts.num_outputs == 1 else [facts.num_outputs]))
        )
    what = f"task, given samples of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"
    module.eval()  # as above
    eager = torch.compiler.set_stance("force_eager")  # it is not compiled for a batch of two
    with torch.no_grad(), eager, user_errors(what, runs=True), contextlib.suppress(NotImplementedError):
        module.step((inputs, targets))
    module.train()
