"""Make sure that the data that a run was trained on are here, before it is made anew."""

import os
from pathlib import Path
from typing import Any

from leyden.config.mistakes import UserError
from leyden.run.contents import RunContents
from leyden.run.files import digest
from leyden.run.trained_on import changed, trained_on


def check_data(run: RunContents, data: Any) -> None:
    """Hold the files that the run was trained on against those that are here; what is no file here is compared in the end.

    Args:
        run: That is to be made anew; anybody may have made its directory.
        data: The node of its configuration.

    Raises:
        UserError: A file is another one, or can't be read.
    """
    if not isinstance(data, dict) or not isinstance(data.get("root"), str):
        return
    root, there = Path(data["root"]), trained_on(run)
    try:
        here = {name: found for name in there if (found := _digest(root, name))}
    except (OSError, ValueError) as error:
        raise UserError(f"data: {error}") from error
    if names := changed(there, here):
        raise UserError(
            f"the data differ: {', '.join(names)} in {root} is not what the run was trained on; "
            "data_root=DIR names another folder"
        )


def _digest(root: Path, name: str) -> str | None:
    """Return what identifies a file below a folder, or the images of a split; None where there is no such thing."""
    path = root / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        return None
    if path.is_file():
        with path.open("rb") as file:
            return digest(file)
    if name.endswith("/") and path.is_dir():
        from leyden.data.folder import Folder  # with PyTorch, which takes seconds

        classes = [each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")]
        (found,) = Folder(path, sorted(classes, key=os.fsencode), (1, 1, 1)).digests.values()
        return found
    return None
