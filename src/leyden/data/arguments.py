"""What constructors refuse, in the same words."""

import inspect
from collections.abc import Callable
from typing import Any


def check_whole(**named: tuple[Any, int]) -> None:
    """Make sure that values are whole numbers, each with the least that it may be.

    Raises:
        ValueError: One is none.
    """
    for name, (value, least) in named.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")


def check_made(name: str, made: Any) -> None:
    """Make sure that a node of the configuration was made.

    Raises:
        ValueError: It is still text.
    """
    if not callable(made):
        raise ValueError(f"{name}={made}: must be made by a _target_; a choice is taken by data/{name}=NAME")


def check_dataset(dataset: Callable[..., Any]) -> None:
    """Make sure that a data set can be made with `root`, `train` and `download`.

    Raises:
        ValueError: It is nothing that makes one, or lacks another argument.
    """
    check_made("dataset", dataset)
    try:
        inspect.signature(dataset).bind(root="", train=True, download=False)
    except TypeError as error:
        raise ValueError(f"dataset: {error}; must take root, train and download") from error
