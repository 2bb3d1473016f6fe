"""Extras: packages that `leyden` alone does not bring, and the command that installs them."""

# Those of `leyden[train]` that the library imports, by the names under which it does.
OF_TRAIN = (
    "PIL",
    "hydra",
    "lightning",
    "matplotlib",
    "numpy",
    "omegaconf",
    "optuna",
    "tensorboard",
    "torch",
    "torchmetrics",
    "torchvision",
    "yaml",
)


def not_installed(package: str, extra: str = "train") -> str:
    """Return the line about a package that an extra brings, and that is not installed.

    Example:
        >>> not_installed("hydra")
        "hydra is not installed; pip install 'leyden[train]' installs it"
    """
    return f"{package} is not installed; pip install 'leyden[{extra}]' installs it"


def missing_package(error: BaseException | None) -> str | None:
    """Return the package of `leyden[train]` whose absence has led to an error.

    It is None for other errors.
    """
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name in OF_TRAIN:
            return error.name
        error = error.__cause__
    return None
