"""A run's code, checked out in a separate work tree, and a check of its data."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import some_of
from leyden.run.directory import RunContents, changed_names, trained_on
from leyden.run.files import sha256_of
from leyden.run.provenance import git
from leyden.run.record import RECORD

MAX_NAMES = 5  # file names in a message


@dataclass(frozen=True)
class Code:
    """The code of a run.

    Args:
        sha: Hash of the commit.
        diff: Uncommitted changes, as a diff for `git apply`; empty if there are none.
        repositories: The code of repositories within this one, by path.
    """

    sha: str
    diff: str
    repositories: dict[str, "Code"]


def code_of(run: RunContents) -> Code:
    """Return the code of a run, which must be the same for all its starts.

    Raises:
        UserError: The code is unknown, recorded only in part, or differs between starts.
    """
    where, starts = run.directory / RECORD, run.starts
    if not starts:
        raise UserError(f"{where}: has no record of a start, so the code is unknown")
    found = {number: start.get("git") for number, start in enumerate(starts, 1)}
    for number, git_there in found.items():
        if git_there != found[1]:
            raise UserError(
                f"{where}: start {number} used different code than start 1; the run can't be reproduced"
            )
    return _code_in(found[1], where)


def _code_in(state: Any, where: Path) -> Code:
    """Return the code that `state_of_code` has recorded.

    Raises:
        UserError: It is unknown, or recorded only in part.
    """
    recorded = state if isinstance(state, dict) else {}
    sha, diff, left_out = recorded.get("sha"), recorded.get("diff"), recorded.get("left_out")
    if not isinstance(sha, str) or not re.fullmatch(r"[0-9a-f]{40,64}", sha):
        raise UserError(f"{where}: records no commit: the run was started without git")
    if left_out:
        names = left_out if isinstance(left_out, list) else [left_out]
        raise UserError(f"{where}: these changes of the code were not saved: {some_of(names, MAX_NAMES)}")
    if not isinstance(diff, str):
        raise UserError(f"{where}: the changes of the code were not saved")
    inner = repositories if isinstance(repositories := recorded.get("repositories"), dict) else {}
    return Code(sha, diff, {path: _code_in(each, where) for path, each in inner.items()})


@contextlib.contextmanager
def checked_out(code: Code, *, apply_diff: bool) -> Iterator[Path]:
    """Check out a run's code in a temporary work tree; yield the path of the project in it.

    Args:
        code: The code of the run.
        apply_diff: Whether the user trusts the diff; the run directory is untrusted.

    Raises:
        UserError: Git, the commit or the user's consent is missing, or the diff does not apply.
    """
    prefix = git(ROOT, "rev-parse", "--show-prefix")  # the project may be a subfolder of its repository
    if prefix is None:
        raise UserError(
            f"{ROOT}: is not a git repository, or git is not installed; the code of the run is not available"
        )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        tree = Path(folder).resolve() / "tree"
        _check_out(code, ROOT, tree, stack, consent=apply_diff)
        yield tree / prefix.strip()


def _check_out(code: Code, source: Path, tree: Path, stack: contextlib.ExitStack, *, consent: bool) -> None:
    """Check out code to a work tree, which the stack removes; then the repositories within it.

    Raises:
        UserError: As of `checked_out`.
    """
    if git(source, "cat-file", "-e", f"{code.sha}^{{commit}}") is None:
        where = "this repository" if source == ROOT else source
        raise UserError(f"commit {code.sha[:12]} of the run is not in {where}; git fetch may get it")
    stack.callback(git, source, "worktree", "prune")
    stack.callback(git, source, "worktree", "remove", "--force", str(tree))
    if git(source, "worktree", "add", "--detach", str(tree), code.sha) is None:
        raise UserError(f"commit {code.sha[:12]} can't be checked out to {tree}")
    if code.diff:
        _apply(code.diff, tree, consent=consent)
    top = Path((git(source, "rev-parse", "--show-toplevel") or "").removesuffix("\n"))
    for path, inner in code.repositories.items():
        if not (top / path / ".git").exists() or not (tree / path).resolve().is_relative_to(tree):
            raise UserError(f"{top / path}: a repository of the run's code is not there")
        _check_out(inner, top / path, tree / path, stack, consent=consent)


def _apply(diff: str, tree: Path, *, consent: bool) -> None:
    """Apply a run's diff to a work tree.

    Raises:
        UserError: The user has not consented, or the diff does not apply.
    """
    changes = git(tree, "apply", "--numstat", "-z", stdin=diff)
    if changes is None:
        raise UserError("the run's changes of the code can't be read by git apply")
    names = [line.split("\t")[-1] for line in changes.split("\0") if line]
    if not consent:
        raise UserError(
            f"the run was made with uncommitted changes of {some_of(names, MAX_NAMES)}, which would be "
            "executed: read the diff in run.json, and set apply_diff=true if you trust it"
        )
    if git(tree, "apply", "--whitespace=nowarn", stdin=diff) is None:
        raise UserError(f"the run's changes of the code don't apply to its commit: {some_of(names, MAX_NAMES)}")


def check_data(run: RunContents, data: Any) -> None:
    """Compare the recorded hashes of a run's training data with the files here.

    Data that are not files are compared after the training.

    Args:
        run: The run to reproduce; its directory is untrusted.
        data: The `data` node of its configuration.

    Raises:
        UserError: A file differs or can't be read.
    """
    if not isinstance(data, dict) or not isinstance(data.get("root"), str):
        return
    root, there = Path(data["root"]), trained_on(run)
    try:
        here = {name: found for name in there if (found := _digest(root, name))}
    except (OSError, ValueError) as error:
        raise UserError(f"data: {error}") from error
    if names := changed_names(there, here):
        raise UserError(
            f"the data differ: {', '.join(names)} in {root} is not what the run was trained on; "
            "data_root=DIR selects another folder"
        )


def _digest(root: Path, name: str) -> str | None:
    """Return the hash of a file below a folder, or of a split's images; None if there is no such file or split."""
    path = root / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        return None
    if path.is_file():
        with path.open("rb") as file:
            return sha256_of(file)
    if name.endswith("/") and path.is_dir():
        from leyden.data.folder import Folder  # imports PyTorch, which takes seconds

        classes = [each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")]
        (found,) = Folder(path, sorted(classes, key=os.fsencode), (1, 1, 1)).digests.values()
        return found
    return None
