"""Reproduction of a run: its code in a work tree, trained by its recorded settings in a process of its own."""

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import OmegaConf

from leyden.config.errors import UserError, leave
from leyden.config.paths import LIBRARY, ROOT, code_folders, environment_of
from leyden.config.terminal import one_line, some_of, warn
from leyden.config.values import dict_at
from leyden.run import provenance
from leyden.run.directory import Run, trained_on
from leyden.run.files import FINGERPRINTS_FILE, read_fingerprints, sha256_of, write_whole
from leyden.run.identity import CONTROL_KEYS, hydra_value, is_launch_option, key_of
from leyden.run.lock import list_files
from leyden.run.process import end_with_parent, importing
from leyden.run.provenance import GIT_OF_COPY, git
from leyden.scheduler.requeue import SIGNAL

MAX_NAMES = 5  # of files in a message
# Signals that end Python without cleanup unless they are handled; SIGHUP is sent when a terminal is closed.
EXIT_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
# Prints the files of packages that a process would import.
ORIGINS = (
    "import sys; from importlib.util import find_spec\nfor name in sys.argv[1:]: print(find_spec(name).origin)"
)


def reproduce(run: Run, output: Path | None = None, data_root: str = "", threads: int | None = None) -> Run:
    """Train a run again with its recorded code, configuration, threads and environment variables.

    Args:
        run: The run.
        output: The new run directory; None for one below `outputs/reproduced/`.
        data_root: Replacement for `data.root`; empty for the recorded one.
        threads: Threads per process; None for the recorded number.

    Returns:
        The new run.

    Raises:
        UserError: The run is not the user's own, can't be reproduced, or its training has failed.
    """
    run.check_owner()
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    directory = (output or ROOT / "outputs" / "reproduced" / run.directory.name / name).absolute()
    if list_files(directory):
        raise UserError(f"output={directory}: is not empty; must be a new folder")
    settings = _settings(run, directory, data_root)
    if not run.starts:
        raise UserError(f"{run.directory}: has no record of a start, which names the code")
    if not read_fingerprints(run.directory):
        raise UserError(f"{run.directory}: has no {FINGERPRINTS_FILE}, with which the new run could be compared")
    machine = dict_at(run.starts[-1], "machine")
    _check_parent(run)
    _check_data(run, dict_at(settings, "data"))
    if machine.get("gpus") and dict_at(settings, "trainer").get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        with importing():
            here = provenance.machine()["gpus"]
        if not here:
            raise UserError(
                f"the run was trained on a GPU ({one_line(machine['gpus'][0])}), and PyTorch finds none here"
            )
    with _checked_out(run) as tree, tempfile.TemporaryDirectory() as folder:
        _write(settings, Path(folder) / "recorded.yaml")
        _warn_of_other_versions(run)
        _train(tree, folder, {**_environment(machine, threads), **environment_of(tree)})
    reproduced, root = Run(directory), dict_at(settings, "data").get("root")
    kept = [each for each in run.overrides if not is_launch_option(key_of(each))]
    reproduced.set_overrides([*kept, *([f"data.root={hydra_value(root)}"] if root else [])])
    return reproduced


def _settings(run: Run, directory: Path, data_root: str) -> dict[str, Any]:
    """Return the root of a Hydra configuration: all settings as recorded, but the project's own loggers."""
    config = {key: value for key, value in run.recorded.items() if key not in (*CONTROL_KEYS, "logger")}
    if data_root:
        if "root" not in dict_at(config, "data"):
            raise UserError(f"data_root={data_root}: has no effect, the run's data have no data.root")
        config["data"] = {**config["data"], "root": str(Path(data_root).absolute())}
    # Keys that the run did not record come from `conf/train.yaml`. No file of a group that it did record is used, since
    # it could add keys that the run did not have.
    groups = [key for key in config if (LIBRARY / "conf" / key).is_dir()]
    return {
        **config,
        "defaults": ["train", *({f"override {group}": None} for group in groups), "_self_"],
        "resume": "never",
        "run_dir": str(directory),
        "outputs": str(ROOT / "outputs"),
        "test": bool(run.result and run.result.is_tested),
        **({"trust": True} if run.trust else {}),  # the parent of a fork is no more the user's own than the run
    }


def _write(settings: dict[str, Any], path: Path) -> None:
    """Write a configuration to a YAML file.

    Raises:
        UserError: It is read back as another one, such as a text that is an interpolation.
    """
    # Quoted and tagged, since a bare 1e5 is a text for PyYAML, but a number for OmegaConf.
    text = yaml.safe_dump(settings, default_style='"', sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(Exception):  # a resolver is anybody's, and can raise anything
        if repr(OmegaConf.to_container(OmegaConf.load(path), resolve=True)) == repr(settings):
            return
    raise UserError("the configuration of the run can't be written so that Hydra reads it unchanged")


def _check_parent(run: Run) -> None:
    """Check that the checkpoint that a run started from (`fork` or `init_from`) is there, and unchanged.

    Raises:
        UserError: It is unknown, missing or changed.
    """
    if not (run.recorded.get("fork") or run.recorded.get("init_from")):
        return
    parent = next((found for start in run.starts if (found := dict_at(start, "parent"))), {})
    path = Path(str(parent.get("checkpoint")))
    if not path.is_file() or _digest(path) != parent.get("sha256"):
        raise UserError(f"{path}: is not there any more, or is not the checkpoint from which the run started")


def _check_data(run: Run, data: dict[str, Any]) -> None:
    """Compare the files of a run's training data with those here; other data are compared after the training.

    Raises:
        UserError: A file differs, or images can't be read.
    """
    if not isinstance(data.get("root"), str):
        return
    root = Path(data["root"])
    try:
        there = trained_on(run).items()
        changed = [name for name, recorded in there if (found := _digest(root / name)) and found != recorded]
    except (OSError, ValueError) as error:
        raise UserError(f"data: {error}") from error
    if changed:
        raise UserError(
            f"the data differ: {some_of(changed, MAX_NAMES)} in {root} is not what the run was trained on; "
            "data_root=DIR selects another folder"
        )


def _digest(path: Path) -> str | None:
    """Return the hash of a file, or of a split's images in folders; None if it is not there, and can be downloaded."""
    if path.is_dir():
        from leyden.data.folder import Folder, class_names  # imports PyTorch, which takes seconds

        return Folder(path, class_names(path), (1, 1, 1)).digest  # no image is read
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sha256_of(file)


@contextlib.contextmanager
def _checked_out(run: Run) -> Iterator[Path]:
    """Check out a run's code in a temporary work tree; yield the path of the project in it.

    Raises:
        UserError: The code is unknown, recorded only in part, or not available.
    """
    code = run.starts[0].get("git")
    for number, start in enumerate(run.starts, 1):
        if start.get("git") != code:
            raise UserError(f"start {number} used different code than start 1; the run can't be reproduced")
    prefix = git(ROOT, "rev-parse", "--show-prefix")  # the project may be a subfolder of its repository
    if prefix is None:
        raise UserError(f"{ROOT}: is no git repository, or git is not installed; the run's code is not available")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for each in EXIT_SIGNALS:  # so that the work tree is removed
            stack.callback(signal.signal, each, signal.signal(each, _exit))
        tree = Path(folder).resolve() / "tree"
        _check_out(code, ROOT, tree, stack)
        project = tree / prefix.strip()
        # The new run records the code as the run did: git writes the same changes in several ways.
        write_whole(project / GIT_OF_COPY, json.dumps(code))  # through no link that the run's diff has made
        yield project


def _exit(number: int, frame: object) -> NoReturn:
    leave(128 + number)


def _check_out(state: Any, source: Path, tree: Path, stack: contextlib.ExitStack) -> None:
    """Check out what `state_of_code` has recorded to a work tree, which the stack removes; then repositories within it.

    Raises:
        UserError: As of `_checked_out`.
    """
    recorded = state if isinstance(state, dict) else {}
    sha, diff, left_out = str(recorded.get("sha")), recorded.get("diff"), recorded.get("left_out")
    if not re.fullmatch(r"[0-9a-f]{40,64}", sha):
        raise UserError("the run records no commit: it was started without git")
    if left_out or not isinstance(diff, str):
        names = left_out if isinstance(left_out, list) and left_out else ["all changes"]
        raise UserError(f"these changes of the code were not saved: {some_of(names, MAX_NAMES)}")
    if git(source, "cat-file", "-e", f"{sha}^{{commit}}") is None:
        where = "this repository" if source == ROOT else source
        raise UserError(f"commit {sha[:12]} of the run is not in {where}; git fetch may get it")
    stack.callback(git, source, "worktree", "remove", "--force", str(tree))
    if git(source, "worktree", "add", "--detach", str(tree), sha) is None:
        raise UserError(f"commit {sha[:12]} can't be checked out to {tree}")
    if diff and git(tree, "apply", "--whitespace=nowarn", stdin=diff) is None:
        raise UserError(f"the run's changes of the code can't be applied to its commit {sha[:12]}")
    top = Path((git(source, "rev-parse", "--show-toplevel") or "").removesuffix("\n"))
    for path, inner in dict_at(recorded, "repositories").items():
        if not (top / path / ".git").exists() or not (tree / path).resolve().is_relative_to(tree):
            raise UserError(
                f"{top / path}: a repository of the run's code is not there; git submodule update --init may get it"
            )
        _check_out(inner, top / path, tree / path, stack)


def _environment(there: dict[str, Any], threads: int | None) -> dict[str, str]:
    """Return the environment of a training process on a run's machine: its variables, threads and kind of processor.

    Other variables that can change bits are left as they are here: the comparison lists them.
    """
    recorded = {name: value for name, value in dict_at(there, "variables").items() if name in provenance.VARIABLES}
    if wrong := [
        name
        for name, value in recorded.items()
        if not (isinstance(value, str) and value.isascii() and "\0" not in value)
    ]:
        raise UserError(f"the recorded variable {wrong[0]} is not a text that a process can have")
    found = {**os.environ, **recorded}
    number = threads or there.get("threads")
    if type(number) is int and number > 0:
        found |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(number))
    if there.get("gpus") == []:
        found["CUDA_VISIBLE_DEVICES"] = ""  # auto chose the processor, and would choose a GPU here
    return found


def _train(tree: Path, folder: str, environment: dict[str, str]) -> None:
    """Run `leyden.train` in a work tree, with the configuration in a folder.

    Raises:
        UserError: It would import other code, or has failed.
    """
    found = [file for folder in code_folders(tree) for file in folder.glob("*/__init__.py")]
    files = {file.parent.name: str(file) for file in found if file.parent.name.isidentifier()}
    command = [sys.executable, "-c", ORIGINS, *files]
    imported = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True).stdout.split("\n")
    for file, origin in zip(files.values(), imported, strict=False):
        if file != origin:
            raise UserError(f"{sys.executable} imports {origin or 'nothing'} instead of the run's code, {file}")
    command = [sys.executable, "-m", "leyden.train", "--config-dir", folder, "--config-name", "recorded"]
    exit_code = subprocess.run(command, cwd=tree, env=environment, preexec_fn=end_with_parent).returncode
    if exit_code:
        why = " by the signal before a time limit (cluster.time_min)" if exit_code == 128 + (SIGNAL or 0) else ""
        raise UserError(f"the run could not be reproduced: its training ended with {exit_code}{why}")


def _warn_of_other_versions(run: Run) -> None:
    """Announce versions that differ from those of a run's last start, as pip's requirements, or between its starts."""
    start = run.starts[-1]
    if any(start.get(key) != each.get(key) for each in run.starts for key in ("python", "versions", "machine")):
        warn(
            "the run's last start had other versions or another machine than one before; only the last one's are taken"
        )
    there, here = dict_at(start, "versions"), provenance.installed_versions()
    # Local version labels (after a plus) name a build for a kind of machine, which the package index may not have.
    needed = [f"{name}=={str(text).partition('+')[0]}" for name, text in there.items() if here.get(name) != text]
    if start.get("python") != platform.python_version():
        needed.insert(0, f"python=={start.get('python')}")
    if needed:
        warn(f"other versions are installed here than the run had: {one_line(' '.join(needed))}")
