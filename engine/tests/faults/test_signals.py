"""A training is told to stop at any time, once or twice: no traceback, and the same command ends it with the same bits."""

import signal
import time

import pytest

from tests.faults.commands import Started

pytestmark = pytest.mark.faults

# Under nohup, SIGHUP is for nobody.
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
SIGNALS = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def test_told_at_any_time(tmp_path, whole, trials, rng):
    for n in range(max(4, trials // 3)):
        (folder := tmp_path / str(n)).mkdir()
        number, pause = rng.choice(SIGNALS), rng.uniform(0, 1.1 * whole.seconds)
        twice = rng.random() < 0.5 and rng.uniform(0, 0.1)
        started = Started("train", *whole.arguments(folder), directory=folder)
        time.sleep(pause)
        started.send(number)
        if twice:
            time.sleep(twice)
            started.send(number)
        code, output = started.end()
        told = f"{number.name} after {pause:.3f} s, twice {twice}: {code}\n{output}"
        assert code in (0, 128 + number, -number), told
        assert "Traceback" not in output, told
        if (folder / "run").is_dir():  # those that a process leaves that is ended at once are another matter
            left = [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".prepared"))]
            assert not left or code == -number, f"{told}\n{left}"
        whole.resume(folder, told, output=folder)
