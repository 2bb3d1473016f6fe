"""The configuration of a run directory, which can come from anybody, and what it may instantiate."""

import inspect
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from leyden.config import UserError
from leyden.plain import flatten
from leyden.run import Run

# What it may instantiate: classes and functions that are defined below these packages. Add your own here.
# Hydra 1.4 has a list like this one, `execution_whitelist`.
ALLOWED_CLASSES = (
    "leyden.callbacks.",
    "leyden.data.",
    "leyden.loggers.",
    "leyden.models.",
    "leyden.optim.",
    "leyden.sweep.pruning.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.trainer.",
    "optuna.pruners.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.datasets.",
    "torchvision.transforms.v2.",
)
ALLOWED_FUNCTIONS = ("torchvision.models.",)


def stored_config(run: Run) -> DictConfig:
    """The configuration of a run directory.

    Raises:
        UserError: It names a target that is not allowed; nothing of it was executed.
    """
    config = run.config
    for key, value in flatten(config):
        # A stored configuration is resolved; an interpolation could make a target after this check.
        if "${" in str(value) or (key.endswith("_target_") and not _is_allowed(key, str(value))):
            raise UserError(
                f"{run.directory}/config.yaml: {key}={value} is refused; stored.py lists what is allowed"
            )
    return OmegaConf.create(config)


def _is_allowed(key: str, target: str) -> bool:
    # The first look keeps strange modules from being imported. The second is at the place of definition: else
    # `leyden.run.os.system` would pass, since modules give away what they have imported.
    if target.split(".")[0] not in {name.split(".")[0] for name in (*ALLOWED_CLASSES, *ALLOWED_FUNCTIONS)}:
        return False
    try:
        found: Any = hydra.utils.get_object(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{key}={target} is refused: it can't be found ({error})") from error
    allowed = ALLOWED_CLASSES if inspect.isclass(found) else ALLOWED_FUNCTIONS
    return f"{getattr(found, '__module__', '')}.".startswith(allowed)
