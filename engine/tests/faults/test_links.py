"""Each file of a run, found by tracing, in whose place is a link, a pipe or a device: nothing outside changes, or hangs."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from leyden.exact import ExactError
from tests.conftest import here
from tests.data import small
from tests.exact.test_fit import Net, both
from tests.exact.test_fit import start as fit
from tests.faults.commands import OPERATIONS, is_clean
from tests.forks import end_with
from tests.records import files

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes"),
    pytest.mark.filterwarnings("ignore"),
]
TIMEOUT_S = 120
# What the reader can't do without: where these are no files, a line refuses the run.
NEEDED = ("run.json", "starts.json", ".lock.0", "checkpoints/last.ckpt")


def call(function, folder, trace=None):
    """Call a function in a copy of this process; return its exit code, minus a signal's number, and what it printed.

    Args:
        function: Returns an exit code.
        folder: Where the output goes.
        trace: Folder whose files are noted in `names` when they are opened, made or renamed.
    """
    output = folder / "output"
    names = os.open(folder / "names", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event, args):
        if trace and event in OPERATIONS:
            for path in args[:2]:
                if isinstance(path, str | bytes | Path) and Path(os.fsdecode(path)).is_relative_to(
                    trace
                ):
                    os.write(names, f"{Path(os.fsdecode(path)).relative_to(trace)}\n".encode())

    def run():
        signal.alarm(TIMEOUT_S)
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        sys.addaudithook(note)
        raise SystemExit(function())

    pid = os.fork()
    if pid == 0:
        end_with(run)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(names)
    return code, output.read_text(errors="replace")


SMALL = (
    "data.val_size=4900",
    "data.batch_size=30",
    "model.hidden_sizes=[4]",
    "trainer.log_every_n_steps=3",
)


def train(run, epochs, root):
    typed = (
        *SMALL,
        f"data.root={root}",
        "test=false",
        "callbacks.checkpoint.every_n_steps=4",
        f"trainer.max_epochs={epochs}",
    )
    return lambda: here("train", f"run_dir={run}", f"outputs={run.parent}", *typed)


def evaluate(run):
    return lambda: here("evaluate", f"run={run}", f"outputs={run.parent}")


def exact(run, at=-1):
    def function():
        try:
            fit(run, Net, both, at=at)
        except (ExactError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
        return 0

    return function


class Begun:
    """A run that has begun, and the names of all files that it and its use touch."""

    def __init__(self, folder, first, *more):
        self.folder = folder
        self.run = folder / "run"
        self.more = more
        assert call(first(self.run), folder, self.run)[0] == 0
        shutil.copytree(self.run, folder / "before")
        for each in more:
            code, output = call(each(self.run), folder, self.run)
            assert code == 0, output
        found = {Path(name) for name in (folder / "names").read_text().splitlines()}
        folders = {parent for path in found for parent in path.parents}
        self.names = sorted(map(str, found - folders))
        self.folders = sorted(map(str, folders - {Path()}))

    def attack(self, place, kinds):
        """Start again with other kinds in the place of these files, by name; return the exit codes and the outputs."""
        shutil.rmtree(place, ignore_errors=True)
        outside = place / "outside"
        (outside / "folder").mkdir(parents=True)
        results = []
        for number, each in enumerate(self.more):
            run = place / f"{number}" / "run"
            shutil.copytree(self.folder / "before", run)
            for name, kind in kinds.items():
                put(run / name, kind, outside)
            before = files(outside), sorted(outside.rglob("*"))
            code, output = call(each(run), run.parent)
            told = f"{kinds}: {code}\n{output}"
            assert (files(outside), sorted(outside.rglob("*"))) == before, told
            assert code == 0 or is_clean(code, last_lines(output)), told
            results.append((code, output))
        return results


def last_lines(output):
    """Of what a start printed, what it says by itself."""
    return "\n".join(
        line for line in output.splitlines() if line.startswith(("leyden", "Traceback"))
    )


def put(path, kind, outside):
    """Put what is no file of its own in a file's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = outside / f"{len(list(outside.iterdir()))}"
    if path.is_dir():
        shutil.rmtree(path)
    if path.exists():
        shutil.move(path, target)
    else:
        target.write_text("kept")
    match kind:
        case "link":
            path.symlink_to(target)
        case "dangling link":
            path.symlink_to(outside / "none")
        case "hard link":
            path.hardlink_to(target)
        case "folder link":
            path.symlink_to(outside / "folder")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        case "device":
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
            except PermissionError:
                path.symlink_to("/dev/zero")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(2**40)


KINDS = (
    "link",
    "hard link",
    "dangling link",
    "folder link",
    "pipe",
    "folder",
    "socket",
    "device",
    "sparse",
)


@pytest.fixture(scope="module")
def by_exact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    return Begun(folder, lambda run: exact(run, at=14), exact)


@pytest.fixture(scope="module")
def by_verbs(tmp_path_factory, small_files):
    folder = tmp_path_factory.mktemp("verbs")
    with pytest.MonkeyPatch.context() as patch:
        small.expect(small_files, patch)
        yield Begun(
            folder,
            lambda run: train(run, 1, small_files),
            lambda run: train(run, 2, small_files),
            evaluate,
        )


def test_the_files_that_are_traced_are_those_of_a_run(by_exact, by_verbs):
    assert {"checkpoints/last.ckpt", "checkpoints/steps.jsonl"} <= {*by_exact.names}
    kept = {
        "run.json",
        "starts.json",
        "config.yaml",
        "metrics.csv",
        "fingerprint.csv",
        "curves.png",
        "best/hparams.tfevents",
    }
    assert kept | {"checkpoints/best.ckpt", ".lock.0"} <= {*by_verbs.names}
    assert {str(path.relative_to(by_verbs.run)) for path in files(by_verbs.run)} <= {
        *by_verbs.names
    }


BY_DAY = ("link", "pipe")
EACH = [kind if kind in BY_DAY else pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS]


@pytest.mark.parametrize("kind", EACH)
def test_exact_follows_no_link_and_waits_for_nothing(tmp_path, by_exact, kind):
    for name in by_exact.names + by_exact.folders:
        ((code, output),) = by_exact.attack(tmp_path / "place", {name: kind})
        is_refused = kind != "hard link" if name in NEEDED else name in by_exact.folders
        if kind != "folder":  # which is removed by nobody
            assert code == (2 if is_refused else 0), output
        assert code == 0 or f"{name}: " in output or f"{name}'" in output, output


def test_a_link_to_a_run_or_to_a_folder_above_it_is_the_users_own(tmp_path, by_exact):
    shutil.copytree(by_exact.folder / "before", tmp_path / "real" / "run")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "mine").symlink_to(tmp_path / "link" / "run")
    assert call(exact(tmp_path / "mine"), tmp_path)[0] == 0
    assert not (tmp_path / "real" / "run" / "checkpoints" / "steps.jsonl").exists()  # it has ended


@pytest.mark.slow(minutes=0.5)
def test_a_run_replaces_what_is_none_of_its_files(tmp_path, by_verbs):
    others = [name for name in by_verbs.names if name not in NEEDED]
    kinds = {name: BY_DAY[number % len(BY_DAY)] for number, name in enumerate(others)}
    kinds["checkpoints/best.ckpt"] = "link"
    (code, output), *_ = by_verbs.attack(tmp_path / "place", kinds)
    assert code == 0, output
    assert "best.ckpt is lost (is a link, which is not followed)" in output


@pytest.mark.faults
def test_each_file_of_a_run_in_each_other_kind(tmp_path, by_verbs, rng, trials):
    every = [*itertools.product(by_verbs.names + by_verbs.folders, KINDS)]
    for name, kind in rng.sample(every, min(trials, len(every))):
        results = by_verbs.attack(tmp_path / "place", {name: kind})
        print(name, kind, *(code for code, _ in results))
