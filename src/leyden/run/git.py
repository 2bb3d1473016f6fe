"""What git says of the code."""

import os
import subprocess
from pathlib import Path


def git(
    at: Path, *arguments: str, environment: dict[str, str] | None = None, given: str | None = None
) -> str | None:
    """What git prints, None if it fails; bytes that are no UTF-8 and ends of lines survive the way there and back.

    Args:
        at: The folder that it works in.
        arguments: What is asked.
        environment: Of the process; None for that of this one.
        given: What it reads.
    """
    environment = {**(environment or os.environ), "GIT_OPTIONAL_LOCKS": "0"}  # what only looks writes nothing
    try:
        ended = subprocess.run(
            ["git", "-C", str(at), *arguments],
            capture_output=True,
            env=environment,
            input=None if given is None else given.encode(errors="surrogateescape"),
        )
    except (OSError, ValueError):
        return None
    return ended.stdout.decode(errors="surrogateescape") if ended.returncode == 0 else None
