"""Check a configuration against the engine's roles, with the classes of another work tree, in a separate process.

`python -m leyden.reproduction.verify TREE FILE` reads a configuration as Hydra does, and prints the first problem.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from leyden.config import paths


def main() -> None:
    """Run the command."""
    tree = Path(sys.argv[1])
    paths.SRC = tree / "src"  # roles allow classes of this tree's packages; `leyden` is imported already
    sys.path.insert(0, str(paths.SRC))
    with contextlib.redirect_stdout(sys.stderr):  # the project's modules may print during import
        from leyden.assembly.trust import problem_of_run

        config: Any = OmegaConf.to_container(OmegaConf.load(sys.argv[2]))
        problem = problem_of_run(config)
    print(problem)


if __name__ == "__main__":
    main()
