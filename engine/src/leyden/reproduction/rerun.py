"""Reproduction of a run with its recorded code and configuration, in a new run directory."""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from leyden.config.errors import UserError
from leyden.config.paths import ROOT, environment_of
from leyden.report.difference import print_next_steps
from leyden.reproduction.environment import accelerator, recorded_threads, warn_of_other_versions
from leyden.reproduction.recipe import check_parent_checkpoint, keep_overrides, recipe, write_config
from leyden.reproduction.sources import check_data, checked_out, code_of
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.files import FINGERPRINTS_FILE, read_fingerprints
from leyden.run.process import end_with_parent

# Signals that end Python without cleanup unless they are handled; SIGHUP is sent when a terminal is closed.
EXIT_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


@dataclass(frozen=True)
class ReproduceOptions:
    """Options for reproducing a run.

    Args:
        output: The new run directory; None for one below `outputs/reproduced/`.
        data_root: Replacement for `data.root`; empty for the project's `data/`.
        threads: Threads per process; None for the recorded number.
    """

    output: Path | None = None
    data_root: str = ""
    threads: int | None = None


def reproduce(run: Run, options: ReproduceOptions) -> Run:
    """Train a run again with its recorded code and configuration.

    Args:
        run: A run of this project.
        options: Options of the command.

    Returns:
        The new run.

    Raises:
        UserError: The run can't be reproduced, or the training has failed.
    """
    run.check_owner()
    check_parent_checkpoint(run)
    if not read_fingerprints(run.directory):
        raise UserError(f"{run.directory}: has no {FINGERPRINTS_FILE}, with which the new run could be compared")
    directory = (options.output or _default_directory(run)).absolute()
    if lock.list_files(directory):
        raise UserError(f"output={directory}: is not empty; must be a new folder")
    code, device = code_of(run), accelerator(run)
    num_threads = options.threads or recorded_threads(run)
    # Signals are handled so that the work tree is removed however this process ends.
    old_handlers = {number: signal.signal(number, _exit_on_signal) for number in EXIT_SIGNALS}
    try:
        with checked_out(code) as tree, tempfile.TemporaryDirectory() as folder:
            root = recipe(run, tree, options.data_root)
            root["trainer"]["accelerator"] = device
            check_data(run, root.get("data"))
            write_config({**root, "run_dir": str(directory)}, Path(folder) / "recorded.yaml")
            warn_of_other_versions(run)
            _train(sys.executable, tree, folder, _environment(tree, num_threads))
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    reproduced = Run(directory)
    if keep_overrides(run, reproduced) and (result := reproduced.result):
        print_next_steps(reproduced, result)
    return reproduced


def _train(python: str, tree: Path, folder: str, environment: dict[str, str]) -> None:
    """Run `leyden.train` in a work tree, with the configuration in a folder."""
    script = "from leyden.config import paths; print(paths.ROOT, paths.LIBRARY, sep='\\n')"
    imported = subprocess.run([python, "-c", script], cwd=tree, env=environment, capture_output=True, text=True)
    library = tree / "engine" / "src" / "leyden"
    project, used = (imported.stdout.splitlines() + ["nothing"] * 2)[:2]
    if project != str(tree) or (library.is_dir() and used != str(library)):
        raise UserError(f"{python} imports {used} in {project}, not the code of the run")
    command = [python, "-m", "leyden.train", "--config-dir", folder, "--config-name", "recorded"]
    exit_code = subprocess.run(command, cwd=tree, env=environment, preexec_fn=end_with_parent).returncode
    if exit_code:
        raise UserError(f"the run could not be reproduced: its training ended with {exit_code}")


def _environment(tree: Path, num_threads: int | None) -> dict[str, Any]:
    """Return the environment variables of the training process: Python path and number of threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads)) if num_threads else {}
    return {**os.environ, **environment_of(tree), **threads}


def _default_directory(run: Run) -> Path:
    return ROOT / "outputs" / "reproduced" / run.directory.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"


def _exit_on_signal(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
