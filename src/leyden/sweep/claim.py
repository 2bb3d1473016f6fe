"""Whose a sweep directory is."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from leyden.config.mistakes import UserError
from leyden.run.files import read_json, refuse_links, write_whole


def claim(directory: Path, identity: dict[str, Any], facts: dict[str, Any]) -> None:
    """Make a directory that of a sweep of this name and objective, and write down further facts about it.

    Raises:
        UserError: It is that of another one.
    """
    path = directory / "sweep.json"
    refuse_links(directory, directory / "logs", directory / "locks")  # submitit makes links of its own in slurm/
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):  # of several starts at once the first one decides whose it is
            there = read_json(path, identity)
            if not isinstance(there, dict):
                raise UserError(f"{path}: is no description of a sweep; choose another sweep_name, or remove it")
            differences = [
                f"{key} {before} there, {here} here"
                for key, here in identity.items()
                if (before := there.get(key, "absent")) != here
            ]
            if differences:
                raise UserError(
                    f"{directory} holds another sweep: {'; '.join(differences)}; choose another sweep_name"
                )
            write_whole(path, json.dumps({**identity, **there, **facts}) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error
