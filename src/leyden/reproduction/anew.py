"""A run made anew: by its own code and its own configuration, in a directory of its own."""

import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.report.printout import print_next_steps
from leyden.reproduction.environment import accelerator, python_as_there, python_here, threads
from leyden.reproduction.recipe import check_parent_checkpoint, keep_overrides, recipe, write_config
from leyden.reproduction.sources import check_data, checked_out, code_of
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.files import FINGERPRINTS_FILE, read_fingerprints
from leyden.run.process import end_with_parent

# Signals that end a process, and by which Python would clean nothing up; SIGHUP comes when a terminal is closed.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


@dataclass(frozen=True)
class ReproduceOptions:
    """How a run is made anew.

    Args:
        output: The new run directory; None for one below `outputs/reproduced/`.
        data_root: Takes the place of `data.root`; empty for the recorded one.
        threads: Of each process; None for as many as the run had.
        apply_diff: Whether the user trusts changes of the code that are in no commit.
        trust: Whether the user trusts all that is made, whatever role it has.
        env: Whether the versions of the run are installed.
    """

    output: Path | None = None
    data_root: str = ""
    threads: int | None = None
    apply_diff: bool = False
    trust: bool = False
    env: bool = False


def reproduce(run: Run, how: ReproduceOptions) -> Run:
    """Train a run anew.

    Args:
        run: Of this project; anybody may have made the directory.
        how: What the user wants.

    Returns:
        The new run.

    Raises:
        UserError: It can't be made as it was, or its training has failed.
    """
    check_parent_checkpoint(run)
    if not read_fingerprints(run.directory):
        raise UserError(f"{run.directory}: has no {FINGERPRINTS_FILE}, to which the new run could be compared")
    directory = (how.output or _directory(run)).absolute()
    if lock.list_files(directory):
        raise UserError(f"output={directory}: is not empty; must be a new folder")
    code, by = code_of(run), accelerator(run)
    number = how.threads or threads(run)
    # Whatever ends this process, the work tree is removed.
    before = {number: signal.signal(number, _end) for number in ENDING}
    try:
        with checked_out(code, apply_diff=how.apply_diff) as tree, tempfile.TemporaryDirectory() as folder:
            root = recipe(run, tree, how.data_root, trust=how.trust)
            root["trainer"]["accelerator"] = by
            check_data(run, root.get("data"))
            write_config({**root, "run_dir": str(directory)}, Path(folder) / "recorded.yaml")
            python = python_as_there(run, tree) if how.env else python_here(run)
            _train(str(python), tree, folder, _environment(tree, number))
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    here = Run(directory)
    if keep_overrides(run, here) and (result := here.result):
        print_next_steps(here, result)
    return here


def _train(python: str, tree: Path, folder: str, environment: dict[str, str]) -> None:
    """Run `leyden.train` of the tree, by the configuration in the folder."""
    asked = "import leyden; print(leyden.__file__)"
    found = subprocess.run([python, "-c", asked], cwd=tree, env=environment, capture_output=True, text=True)
    if Path(found.stdout.strip() or "/") != tree / "src" / "leyden" / "__init__.py":
        raise UserError(f"{python} does not take the code of the run, but {found.stdout.strip() or 'none'}")
    command = [python, "-m", "leyden.train", "--config-dir", folder, "--config-name", "recorded"]
    code = subprocess.run(command, cwd=tree, env=environment, preexec_fn=end_with_parent).returncode
    if code:
        raise UserError(f"the run could not be made anew: its training ended with {code}")


def _environment(tree: Path, number: int | None) -> dict[str, Any]:
    """Of the process that trains: the code that it finds first, and its threads."""
    path = os.pathsep.join(filter(None, [str(tree / "src"), os.environ.get("PYTHONPATH")]))
    given = {"OMP_NUM_THREADS": str(number), "MKL_NUM_THREADS": str(number)} if number else {}
    return {**os.environ, "PYTHONPATH": path, **given}


def _directory(run: Run) -> Path:
    return ROOT / "outputs" / "reproduced" / run.directory.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
