"""Reproduction of a run: its code in a work tree, trained by its recorded settings."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from leyden.base.errors import UserError
from leyden.base.paths import LIBRARY, environment_of, root
from leyden.base.terminal import some_of
from leyden.config.checks import check_folder
from leyden.config.values import dict_at
from leyden.exact.files import opened
from leyden.run.directory import Run, changed_names
from leyden.run.files import FINGERPRINTS_FILE, read_fingerprints, sha256_of, write_whole
from leyden.run.identity import hydra_value, is_launch_option, key_of
from leyden.run.keys import Role, has
from leyden.run.lock import list_files
from leyden.run.process import end_with_parent
from leyden.run.provenance import GIT_OF_COPY, VARIABLES, git

MAX_SHOWN_FILES = 5  # of files in a message


def reproduce(
    run: Run,
    output: Path | None = None,
    data_root: str = "",
    threads: int | None = None,
    code: Mapping[str, Any] | None = None,
) -> Run:
    """Train a run again with its recorded code, configuration, threads and environment variables.

    Args:
        run: The run.
        output: The new run directory; None for one below `outputs/reproduced/`.
        data_root: Replacement for `data.root`; empty for the recorded one.
        threads: Threads per process; None for the recorded number.
        code: Other code than the recorded one, as of `state_of_code`.

    Returns:
        The new run.

    Raises:
        UserError: The run is not the user's own, can't be reproduced, or its training has failed.
    """
    run.check_owner()
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    directory = (output or root() / "outputs" / "reproduced" / run.directory.name / name).absolute()
    if list_files(directory):
        raise UserError(f"output={directory}: is not empty; must be a new folder")
    settings = recorded_settings(run, directory, data_root)
    recorded = recorded_code(run)
    if not read_fingerprints(run.directory):
        raise UserError(
            f"{run.directory}: has no {FINGERPRINTS_FILE}, with which the new run could be compared"
        )
    reproduced = train_again(run, settings, code or recorded, threads=threads)
    if not code:
        _check_imported(run, reproduced)
    return reproduced


def _check_imported(run: Run, reproduced: Run) -> None:
    """Check that the new run has imported the code of the run.

    Raises:
        UserError: It has imported other code, as where a package is found elsewhere first.
    """
    names = changed_names(dict_at(run.starts[-1], "code"), dict_at(reproduced.starts[-1], "code"))
    if names:
        raise UserError(
            f"{sys.executable} has imported other code than the run's: "
            f"{some_of(names, MAX_SHOWN_FILES)}"
        )


def train_again(
    run: Run,
    settings: Mapping[str, Any],
    code: Mapping[str, Any],
    *,
    threads: int | None = None,
) -> Run:
    """Train with a run's settings and some code, in a process of its own, and return the new run.

    Args:
        run: The run, which is the user's own.
        settings: Settings by `recorded_settings`, perhaps changed.
        code: Commit and changes, as of `state_of_code`.
        threads: As in `reproduce`.

    Raises:
        UserError: The code is not available, or its training has failed.
    """
    _check_parent(run)
    with checked_out(code) as tree, tempfile.TemporaryDirectory() as folder:
        _write(settings, Path(folder) / "recorded.yaml")
        environment = _environment(dict_at(run.starts[-1], "machine"), threads)
        environment |= environment_of(tree)
        _train(tree, folder, environment)
    again = Run(settings["run_dir"])
    _record_overrides(run, again, settings)
    return again


def _record_overrides(run: Run, again: Run, settings: Mapping[str, Any]) -> None:
    """Record the overrides that a new run is resumed by."""
    kept = [each for each in run.overrides if not is_launch_option(key_of(each))]
    data_root = dict_at(settings, "data").get("root")
    if data_root:
        kept.append(f"data.root={hydra_value(data_root)}")
    again.set_overrides(kept, dict_at(run.starts[-1], "groups"))


def recorded_settings(run: Run, directory: Path, data_root: str = "") -> dict[str, Any]:
    """Return the root of a Hydra configuration: all recorded settings but the loggers."""
    recorded = run.config.items()
    config = {key: each for key, each in recorded if has(key, Role.RECORDED) and key != "logger"}
    if data_root:
        if "root" not in dict_at(config, "data"):
            raise UserError(
                f"data_root={data_root}: has no effect, the run's data have no data.root"
            )
        check_folder("data_root", data_root)
        config["data"] = {**config["data"], "root": str(Path(data_root).absolute())}
    # Keys that the run did not record come from `conf/train.yaml`. No file of a group that it did
    # record is used, since it could add keys that the run did not have.
    groups = [key for key in config if (LIBRARY / "conf" / key).is_dir()]
    overridden = [{f"override {group}": None} for group in groups]
    settings = {
        **config,
        "defaults": ["train", *overridden, "_self_"],
        "resume": "never",
        "run_dir": str(directory),
        "outputs": str(root() / "outputs"),
        "test": bool(run.result and run.result.is_tested),
    }
    if run.trust:  # the parent of a fork is no more the user's own than the run
        settings["trust"] = True
    return settings


def _write(settings: Mapping[str, Any], path: Path) -> None:
    """Write a configuration to a YAML file.

    Raises:
        UserError: It is read back as another one, such as a text that is an interpolation.
    """
    # Quoted and tagged, since a bare 1e5 is a text for PyYAML, but a number for OmegaConf.
    text = yaml.safe_dump(dict(settings), default_style='"', sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(Exception):  # a resolver is anybody's, and can raise anything
        read = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        if repr(read) == repr(dict(settings)):
            return
    raise UserError(
        "the configuration of the run can't be written so that Hydra reads it unchanged"
    )


def _check_parent(run: Run) -> None:
    """Check that the checkpoint of `fork` or `init_from` is there, and unchanged.

    Raises:
        UserError: It is unknown, missing or changed.
    """
    if not (run.config.get("fork") or run.config.get("init_from")):
        return
    parents = [dict_at(start, "parent") for start in run.starts]
    parent = next(filter(None, parents), {})
    path = Path(str(parent.get("checkpoint")))
    if path.is_file():
        with opened(path) as file:
            if sha256_of(file) == parent.get("sha256"):
                return
    raise UserError(
        f"{path}: is not there any more, or is not the checkpoint from which the run started"
    )


def recorded_code(run: Run) -> Mapping[str, Any]:
    """Return the code of a run, as of `state_of_code`.

    Raises:
        UserError: It is unknown, or not the same at each start.
    """
    if not run.starts:
        raise UserError(f"{run.directory}: has no record of a start, which names the code")
    code = dict_at(run.starts[0], "git")
    for number, start in enumerate(run.starts, 1):
        if start.get("git") != code:
            raise UserError(
                f"start {number} used different code than start 1; the run can't be reproduced"
            )
    return code


@contextlib.contextmanager
def checked_out(code: Mapping[str, Any]) -> Iterator[Path]:
    """Check out code in a temporary work tree; yield the path of the project in it.

    Args:
        code: Commit and changes, as of `state_of_code`.

    Raises:
        UserError: The code is unknown, known only in part, or not available.
    """
    prefix = git(
        root(), "rev-parse", "--show-prefix"
    )  # the project may be a subfolder of its repository
    if prefix is None:
        raise UserError(
            f"{root()}: is no git repository, or git is not installed; "
            "the run's code is not available"
        )
    sha, diff = str(code.get("sha")), code.get("diff")
    if not re.fullmatch(r"[0-9a-f]{40,64}", sha):
        raise UserError("the run records no commit: it was started without git")
    if code.get("left_out") or diff is None:
        names = []
        for name in code.get("left_out") or ["all changes"]:
            names.append(f"{name} (a repository of its own)" if name.endswith("/") else name)
        raise UserError(f"this code was not saved with the run: {some_of(names, MAX_SHOWN_FILES)}")
    if git(root(), "cat-file", "-e", f"{sha}^{{commit}}") is None:
        raise UserError(
            f"commit {sha[:12]} of the run is not in this repository; git fetch may get it"
        )
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        try:
            if git(root(), "worktree", "add", "--detach", str(tree), sha) is None:
                raise UserError(f"commit {sha[:12]} can't be checked out to {tree}")
            if diff and git(tree, "apply", "--whitespace=nowarn", stdin=diff) is None:
                raise UserError(
                    f"the run's changes of the code can't be applied to its commit {sha[:12]}"
                )
            project = tree / prefix.strip()
            # The new run records the code as the run did: git writes the same changes in several
            # ways.
            write_whole(
                project / GIT_OF_COPY, json.dumps(dict(code))
            )  # through no link that the run's diff has made
            yield project
        finally:
            git(root(), "worktree", "remove", "--force", str(tree))


def _environment(there: dict[str, Any], threads: int | None) -> dict[str, str]:
    """Return the environment of a run's processes: its variables, threads, kind of processor.

    Other variables that can change bits are left as they are here: the comparison lists them.
    """
    found = dict(os.environ)
    variables = dict_at(there, "variables")
    found |= {name: value for name, value in variables.items() if name in VARIABLES}
    number = threads or there.get("threads")
    if type(number) is int and number > 0:
        found["OMP_NUM_THREADS"] = str(number)
        found["MKL_NUM_THREADS"] = str(number)
    if there.get("gpus") == []:
        found["CUDA_VISIBLE_DEVICES"] = ""  # auto chose the processor, and would choose a GPU here
    return found


def _train(tree: Path, folder: str, environment: dict[str, str]) -> None:
    """Run `leyden.train` in a work tree, with the configuration in a folder.

    Raises:
        UserError: It has failed.
    """
    command = [sys.executable, "-m", "leyden.train", "--config-name=recorded"]
    command.append(f"--config-dir={folder}")
    ended = subprocess.run(command, cwd=tree, env=environment, preexec_fn=end_with_parent)
    if ended.returncode:
        raise UserError(
            f"the run could not be reproduced: its training ended with {ended.returncode}"
        )
