"""The arguments that a class or function takes."""

import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

if sys.version_info >= (3, 14):
    from annotationlib import Format


def signature(made: Any) -> inspect.Signature:
    """That of a class or function; what its annotations name need not be there, as what is imported for a type checker only."""
    if sys.version_info >= (3, 14):  # which evaluates them when they are asked for
        return inspect.signature(made, annotation_format=Format.FORWARDREF)
    return inspect.signature(made)


def argument_names(made: Any, *, needed: bool = False) -> set[str]:
    """The arguments that a class or function names; those of a base, too, where a class hands the rest on to that.

    Args:
        made: The class or function.
        needed: Whether it is about those only that have no default.
    """
    parameters = itertools.chain.from_iterable(_parameters(made))
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name for p in parameters if p.kind not in kinds and (not needed or p.default is p.empty)}


def takes_any(made: Any) -> bool:
    """Whether a class or function takes keywords that neither it nor a base of it names."""
    *_, last = [[], *_parameters(made)]
    return not last or any(parameter.kind == parameter.VAR_KEYWORD for parameter in last)


def _parameters(made: Any) -> Iterator[list[inspect.Parameter]]:
    """The parameters of a class or function, and of its bases up to one that hands nothing on."""
    for part in inspect.getmro(made) if inspect.isclass(made) else [made]:
        try:
            parameters = list(signature(part).parameters.values())
        except ValueError:  # of a class that is written in C
            return
        yield parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            return
