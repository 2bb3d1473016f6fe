"""Check a configuration against the roles of this engine, with the classes of another work tree: a process of its own.

`python -m leyden.reproduction.verify TREE FILE` reads a configuration as Hydra does, and prints what no role allows.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from leyden.config import paths


def main() -> None:
    """The command."""
    tree = Path(sys.argv[1])
    paths.SRC = tree / "src"  # the packages of the project, whose classes roles allow; `leyden` is imported by now
    sys.path.insert(0, str(paths.SRC))
    with contextlib.redirect_stdout(sys.stderr):  # a module of the project can print when it is imported
        from leyden.assembly.trust import problem_of_run

        config: Any = OmegaConf.to_container(OmegaConf.load(sys.argv[2]))
        problem = problem_of_run(config)
    print(problem)


if __name__ == "__main__":
    main()
