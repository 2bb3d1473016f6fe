"""Check a configuration against the engine's roles, with the classes of another work tree, in a separate process.

`python -m leyden.reproduction.verify FILE` reads a configuration as Hydra does, and prints the first problem.
"""

import contextlib
import sys
from typing import Any

from omegaconf import OmegaConf

from leyden.config.paths import prepare_process


def main() -> None:
    """Run the command."""
    prepare_process()
    with contextlib.redirect_stdout(sys.stderr):  # the project's modules may print during import
        from leyden.assembly.trust import problem_of_run

        config: Any = OmegaConf.to_container(OmegaConf.load(sys.argv[1]))
        problem = problem_of_run(config)
    print(problem)


if __name__ == "__main__":
    main()
