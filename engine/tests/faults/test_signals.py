"""A training is told to stop at any time, once or twice: no traceback, and the same command ends it with the same bits."""

import random
import signal
import time

import pytest

from leyden.run.directory import Run
from tests.conftest import assert_same_bits
from tests.faults.commands import Started, call

pytestmark = pytest.mark.faults

# Under nohup, SIGHUP is for nobody.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
SIGNALS = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def arguments(folder, data):
    return (f"run_dir={folder / 'run'}", f"outputs={folder}", *data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """A run that was not told to stop, and how long it took."""
    folder, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    code, output = call("train", *arguments(folder, data), directory=folder)
    assert code == 0, output
    return folder, time.monotonic() - began


def check(folder, whole, data, code, number, output, told):
    assert code in (0, 128 + number, -number), told
    assert "Traceback" not in output, told
    if (folder / "run").is_dir():  # those that a process leaves that is ended at once are another matter
        left = [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".prepared"))]
        assert not left or code == -number, f"{told}\n{left}"
    again, output = call("train", *arguments(folder, data), directory=folder)
    assert again == 0, f"{told}\nThen: {output}"
    assert Run(folder / "run").result.status == "finished", told
    assert_same_bits(whole[0] / "run", folder / "run")


def test_told_at_any_time(tmp_path, data, whole, trials, seed):
    rng = random.Random(seed)
    for n in range(max(8, trials // 3)):
        folder = tmp_path / str(n)
        folder.mkdir()
        number, pause = rng.choice(SIGNALS), rng.uniform(0, 1.1 * whole[1])
        twice = rng.random() < 0.5 and rng.uniform(0, 0.1)
        started = Started("train", *arguments(folder, data), directory=folder)
        time.sleep(pause)
        started.send(number)
        if twice:
            time.sleep(twice)
            started.send(number)
        code, output = started.end()
        told = f"FAULTS_SEED={seed} {number.name} after {pause:.3f} s, twice {twice}: {code}\n{output}"
        check(folder, whole, data, code, number, output, told)
