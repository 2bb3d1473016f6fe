"""The library's tests, with the template at the root of the repository as the project."""

import os
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1]  # the folder of the library's distribution
ROOT = ENGINE.parent  # of the template
CONF = ROOT / "conf"
# For processes that are started elsewhere: the project, and the library and its tests as modules.
os.environ.setdefault("LEYDEN_PROJECT", str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ENGINE / "src"), str(ENGINE), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def conf(folder: str) -> list[Path]:
    """Return the config files in a folder of `conf/`, the project's and the library's."""
    from leyden.base.paths import conf_files

    return sorted((path for _, path in conf_files(f"{folder}/*.yaml")), key=lambda path: path.stem)


def mistakes(text: str) -> list[tuple[str, ...]]:
    """What is typed, and the words that refuse it, by the lines of a text."""
    return [tuple(line.split("  =>  ")) for line in text.strip().splitlines()]
