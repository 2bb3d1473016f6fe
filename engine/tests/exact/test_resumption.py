"""`leyden resumetest`: scripts that resume right or wrong, and scripts that it can't test."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leyden.exact import ExactError
from leyden.exact.resumption import Starts, compare_killed, read_marks, run_group
from tests import mistakes
from tests.conftest import here
from tests.forks import wait_for_end

HERE = Path(__file__).parents[1] / "testing"
# A training of ten steps, with a number as its weights; a checkpoint every third step. Numbers need no PyTorch to be
# hashed, which takes seconds to import in each start.
COUNTS = """
import os, sys, threading, time, types
sys.modules["leyden.exact.digest"] = types.SimpleNamespace(digest_of_content=repr)
from pathlib import Path
from leyden.exact import mark

folder = Path(sys.argv[1])
step = weight = 0
if (folder / "saved").exists():
    step, weight = map(int, (folder / "saved").read_text().split())
began = step
def save():
    (folder / "new").write_text(f"{step} {weight}")
    (folder / "new").replace(folder / "saved")
while step < 10:
    step += 1
    batch = step * 7 % 10
    weight += batch
    if step % 3 == 0:
        save()
    mark(step, {"weight": weight}, None, batch)
"""


def verdict(tmp_path, *changes, timeout_s=60):
    """What is found of COUNTS, with these texts in it replaced."""
    text = COUNTS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "script.py").write_text(text)
    (tmp_path / "scratch").mkdir()
    words = [sys.executable, str(tmp_path / "script.py"), "{dir}"]
    return compare_killed(Starts(words, tmp_path / "scratch", timeout_s, print), 3, 0)


def test_a_loop_that_resumes_right(tmp_path, capsys):
    assert verdict(tmp_path) == (
        True,
        "the same bits in all 10 steps, 5 done again (batch, weights)",
    )
    starts = [
        "1 to 10, exit code 0",
        "1 to 2, killed",
        "1 to 5, killed",
        "4 to 7, killed",
        "7 to 10, exit code 0",
    ]
    lines = [line.rpartition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"start {number}: steps {steps}" for number, steps in enumerate(starts, 1)]


# The first one is as a random state that is not restored, as of dropout.
PARTS = mistakes(r"""
weight += batch  =>  weight += batch + (step - began)  =>  start 4 parts at step 4: weights
None, batch  =>  [step - began], batch  =>  start 4 parts at step 4: optimizer
began = step  =>  step > 2 and sys.exit(1)  =>  start 4 ends with exit code 1, without step 7
while step < 10  =>  while step < 10 + (began > 0)  =>  start 5 parts at step 11: the undisturbed run has no
while step < 10  =>  while step < 10 - (began == 6)  =>  start 5 ends with exit code 0, without step 10
weight += batch  =>  weight += os.getpid()  =>  not deterministic: without a resume, too, it parts at step 1
mark(step,  =>  print(step,  =>  refused: the command marks nothing
began = step  =>  began = 1 / 0  =>  refused: undisturbed, .* exit code 1\n(.|\n)*ZeroDivisionError
mark(step,  =>  open(os.environ["LEYDEN_MARKS"], "a").write("?"); mark(step,  =>  refused: a mark of the command is damaged
while step < 10  =>  while step < 1  =>  refused: the command marks one step
mark(step,  =>  mark(step % 5,  =>  refused: step 1 is marked 2 times: each step needs a number of its own
while step < 10  =>  while step < 3  =>  refused: kills=3: must be from 1 to 2, as the command marks 3 steps
"saved").exists()  =>  "none").exists()  =>  refused: nothing was shown: each start began at step 1;
sys.argv[1]  =>  sys.argv[0] + 's'); folder.mkdir(exist_ok=True  =>  refused: start 2 did not begin as start 1: all .* must lie in {dir}
""")


@pytest.mark.parametrize(("old", "new", "found"), PARTS)
def test_it_names_what_parts_first_and_refuses_what_would_show_nothing(tmp_path, old, new, found):
    if found.startswith("refused: "):
        with pytest.raises(ExactError, match=found.removeprefix("refused: ")):
            verdict(tmp_path, (old, new))
    else:
        same, text = verdict(tmp_path, (old, new))
        assert (same, text[: len(found)]) == (False, found)


def test_of_a_mark_that_a_kill_has_cut_nothing_is_read(tmp_path):
    line = '{"rank": "0", "step": "1", "batch": "a", "weights": null, "optimizer": null}\n'
    (tmp_path / "marks").write_text(line + line[:9])
    mark = {"rank": "0", "step": "1", "batch": "a", "weights": "", "optimizer": ""}
    assert read_marks(tmp_path / "marks") == [mark]


def test_what_never_ends_is_ended_with_its_children(tmp_path):
    forks = (
        "began = step; print('forks', flush=True); os.fork(); (folder / str(os.getpid())).touch(); "
    )
    with pytest.raises(ExactError, match=r"start 1 did not end within 0.05 min; (.|\n)*forks"):
        verdict(tmp_path, ("began = step", f"{forks}time.sleep(600)"), timeout_s=3)
    pids = [int(path.name) for path in (tmp_path / "scratch" / "run").iterdir()]
    assert len(pids) == 2
    wait_for_end(pids)


def test_a_process_may_be_a_step_ahead_when_it_ends_the_others(tmp_path):
    class Marked(Starts):
        """Starts of two processes, the second of which is killed at a step's mark, before the first one gets there."""

        def start(self, kill_at=""):
            self.number += 1
            steps = [str(step) for step in range(1 + (self.number > 2), int(kill_at or 5) + 1)]
            names = sorted(
                [(step, rank) for step in steps for rank in "01" if (step, rank) != (kill_at, "0")]
            )
            hashes = {"batch": "", "weights": "a", "optimizer": ""}
            return [{"step": step, "rank": rank, **hashes} for step, rank in names], int(
                bool(kill_at)
            )

    (tmp_path / "run").mkdir()
    same = (True, "the same bits in all 5 steps, 3 done again (weights)")
    assert compare_killed(Marked(["true", "{dir}"], tmp_path, 60, print), 2, 0) == same


ALL_SAME = "the same bits in all 40 steps, 10 done again"
EXAMPLES = [
    ("loop.py", 0, f"{ALL_SAME} (batch, weights, optimizer)"),
    ("loop.py --forget", 1, "start 4 parts at step 25: batch, weights, optimizer"),
    ("lightning_alone.py", 1, "start 4 parts at step 25: batch, weights"),
    ("lightning_alone.py --exact", 0, f"{ALL_SAME} (batch, weights, optimizer)"),
]


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(("words", "code", "last"), EXAMPLES)
def test_the_examples_of_the_page(capsys, words, code, last):
    name, *options = words.split()
    assert here("resumetest", "--", sys.executable, str(HERE / name), "{dir}", *options) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


MISTYPED = mistakes("""
kills=3  =>  the command is missing
python train.py  =>  python: must be one of kills=, seed=, timeout_min=
-- python train.py  =>  the command needs {dir}
-- no-such-program {dir}  =>  no-such-program
kills=0 -- python {dir}  =>  kills=0: must be a positive whole number
seed=x -- python {dir}  =>  seed=x: must be a whole number
""")


@pytest.mark.parametrize(("typed", "error"), MISTYPED)
def test_mistakes_are_a_line(capsys, typed, error):
    assert here("resumetest", *typed.split()) == 2
    said = capsys.readouterr().err
    assert error in said
    assert said.count("\n") == 1


def test_a_signal_ends_the_command_too(tmp_path):
    waits = "import os, sys, time; open(sys.argv[1] + '.pid', 'w').write(str(os.getpid())); time.sleep(600)"
    words = [sys.executable, "-m", "leyden.resumetest", "--", sys.executable, "-c", waits, "{dir}"]
    process = subprocess.Popen(
        words, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL
    )
    while not (found := [path for path in tmp_path.glob("*/run.pid") if path.read_text()]):
        time.sleep(0.05)
    pid = int(found[0].read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    wait_for_end([pid])
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_as_a_command_starts_ends_it():
    started = []

    def launch():
        started.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        os.kill(os.getpid(), signal.SIGINT)
        return started[0]

    with pytest.raises(KeyboardInterrupt):
        run_group(launch, 600)
    assert started[0].poll() == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("forgets", [False, True])
def test_a_function_is_asked_in_new_processes_for_its_first_steps(forgets):
    command = [sys.executable, str(HERE / "exact_test.py"), *["--forget"][:forgets]]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == forgets, done.stderr
    expected = "start 3 parts at step " if forgets else "the same bits in all 24 steps, "
    assert last.startswith(expected)
