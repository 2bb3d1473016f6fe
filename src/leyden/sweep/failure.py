"""What a job failed by, as a text that goes from process to process: type and message, then the place in the code."""

from leyden.config.mistakes import is_mistake, where
from leyden.run.result import Failure

AT = "\n    at "


def of(error: BaseException) -> str:
    """The text of an exception; of a mistake in the configuration it names no place."""
    place = "" if is_mistake(error) else where(error)
    return as_text(Failure(type(error).__name__, str(error), place))


def as_text(failure: Failure) -> str:
    r"""The text of what stands in `result.json`.

    Example:
        >>> as_text(Failure("KeyError", "'hidden'", "mlp.py:12 in forward"))
        "KeyError: 'hidden'\n    at mlp.py:12 in forward"
    """
    return f"{failure.type}: {failure.message}" + (f"{AT}{failure.where}" if failure.where else "")


def parse(text: str) -> Failure:
    """Type, message and place of a text, as above."""
    kind, _, rest = text.partition(": ")
    message, at, place = rest.rpartition(AT)
    return Failure(kind, message, place) if at else Failure(kind, rest)
