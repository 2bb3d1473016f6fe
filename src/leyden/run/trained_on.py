"""The data that a run was trained on, as its provenance identifies them: a SHA-256 by the name of a file or tensor."""

from collections.abc import Mapping

from leyden.config.mistakes import UserError
from leyden.run.contents import RunContents


def trained_on(run: RunContents) -> dict[str, str]:
    """Return what the run's last start recorded; empty where no start did, as of data that nothing identifies.

    Raises:
        UserError: `provenance.json` is damaged.
    """
    for start in reversed(run.starts):
        data = start.get("data")
        if isinstance(data, dict) and data and all(isinstance(digest, str) for digest in data.values()):
            return data
    return {}


def changed(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the names that are not the same in both; of data that one does not know, nothing is said.

    Example:
        >>> changed({"a.csv": "1", "b.csv": "1"}, {"a.csv": "2", "c.csv": "1"})
        ['a.csv']
    """
    return [name for name in there if name in here and here[name] != there[name]]


def check_resumable(run: RunContents, here: Mapping[str, str]) -> None:
    """Make sure that a run is resumed on the data that it was trained on.

    Raises:
        UserError: They have changed; it names them.
    """
    if names := changed(trained_on(run), here):
        raise UserError(
            f"{run.directory}: the data differ from those that it was trained on: {', '.join(names)}; put the former "
            "data back to resume it, or choose another run_dir"
        )
