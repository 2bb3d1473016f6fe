"""`leyden resumetest`: scripts that resume right or wrong, and scripts that it can't test."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leyden.config.errors import UserError
from leyden.training.resumption import Starts, compare_killed, read_marks
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


def verdict(tmp_path, *changes, kills=3, seed=0, timeout_s=60, command=(sys.executable, "script.py", "{dir}")):
    """What is found of COUNTS, with these texts in it replaced."""
    text = COUNTS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "script.py").write_text(text)
    words = [str(tmp_path / word) if word == "script.py" else word for word in command]
    (tmp_path / "scratch").mkdir()
    return compare_killed(Starts(words, tmp_path / "scratch", timeout_s), kills, seed)


def test_a_loop_that_resumes_right(tmp_path, capsys):
    assert verdict(tmp_path) == (True, "the same bits in all 10 steps, 5 done again (batch, weights)")
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(",")[0] for line in lines] == [
        "start 1: steps 1 to 10, exit code 0",
        "start 2: steps 1 to 2, killed",
        "start 3: steps 1 to 5, killed",
        "start 4: steps 4 to 7, killed",
        "start 5: steps 7 to 10, exit code 0",
    ]


# The first is as a random state that is not restored, as of dropout.
PARTS = mistakes("""
weight += batch  =>  weight += batch + (step - began)  =>  start 4 parts at step 4: weights
None, batch  =>  [step - began], batch  =>  start 4 parts at step 4: optimizer
began = step  =>  step > 2 and sys.exit(1)  =>  start 4 ends with exit code 1, without step 7
while step < 10  =>  while step < 10 + (began > 0)  =>  start 5 parts at step 11: the undisturbed run has no
while step < 10  =>  while step < 10 - (began == 6)  =>  start 5 ends with exit code 0, without step 10
weight += batch  =>  weight += os.getpid()  =>  not deterministic: without a resume, too, it parts at step 1
""")
SHOWS_NOTHING = mistakes(r"""
mark(step,  =>  print(step,  =>  the command marks nothing
began = step  =>  began = 1 / 0  =>  undisturbed, .* exit code 1\n(.|\n)*ZeroDivisionError
mark(step,  =>  open(os.environ["LEYDEN_MARKS"], "a").write("?"); mark(step,  =>  a mark of the command is damaged
while step < 10  =>  while step < 1  =>  the command marks one step
mark(step,  =>  mark(step % 5,  =>  step 1 is marked 2 times: each step needs a number of its own
while step < 10  =>  while step < 3  =>  kills=3: must be from 1 to 2, as the command marks 3 steps
"saved").exists()  =>  "none").exists()  =>  nothing was shown: each start began at step 1;
sys.argv[1]  =>  sys.argv[0] + 's'); folder.mkdir(exist_ok=True  =>  start 2 did not begin as start 1: all .* must lie in {dir}
""")


@pytest.mark.parametrize(("old", "new", "found"), PARTS)
def test_it_names_what_parts_first(tmp_path, old, new, found):
    same, text = verdict(tmp_path, (old, new))
    assert (same, text[: len(found)]) == (False, found)


@pytest.mark.parametrize(("old", "new", "error"), SHOWS_NOTHING)
def test_what_would_show_nothing_is_refused(tmp_path, old, new, error):
    with pytest.raises(UserError, match=error):
        verdict(tmp_path, (old, new))


def test_of_a_mark_that_a_kill_has_cut_nothing_is_read(tmp_path):
    line = '{"rank": "0", "step": "1", "batch": "a", "weights": null, "optimizer": null}\n'
    (tmp_path / "marks").write_text(line + line[:9])
    nothing = {"weights": "", "optimizer": ""}
    assert read_marks(tmp_path / "marks") == [{"rank": "0", "step": "1", "batch": "a", **nothing}]


def test_what_never_ends_is_ended_with_its_children(tmp_path):
    forks = "began = step; print('forks', flush=True); os.fork(); (folder / str(os.getpid())).touch(); "
    with pytest.raises(UserError, match=r"start 1 did not end within 0.05 min; (.|\n)*forks"):
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
            names = sorted([(step, rank) for step in steps for rank in "01" if (step, rank) != (kill_at, "0")])
            hashes = {"batch": "", "weights": "a", "optimizer": ""}
            return [{"step": step, "rank": rank, **hashes} for step, rank in names], int(bool(kill_at))

    (tmp_path / "run").mkdir()
    same = (True, "the same bits in all 5 steps, 3 done again (weights)")
    assert compare_killed(Marked(["true", "{dir}"], tmp_path, 60), 2, 0) == same


ALL_SAME = "the same bits in all 40 steps, 10 done again"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.nightly  # tests/exact compares the marks of two processes by day
@pytest.mark.slow
@pytest.mark.matrix
def test_each_process_marks_its_own_batch(tmp_path):
    own = 'rank = int(os.environ["RANK"]); folder = Path(sys.argv[1]) / str(rank); folder.mkdir(exist_ok=True)'
    drawn = ("step * 7", "(step - began * rank) * 7")
    changes = ("folder = Path(sys.argv[1])", own), drawn, ("step += 1", "step += 1; time.sleep(0.1)")
    same, text = verdict(tmp_path, *changes, command=(*TORCHRUN, "script.py", "{dir}"))
    assert (same, text[:24]) == (False, "start 4 parts at step 4:")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (("loop.py",), 0, f"{ALL_SAME} (batch, weights, optimizer)"),
        (("loop.py", "--forget"), 1, "start 4 parts at step 25: batch, weights, optimizer"),
        (("lightning_alone.py",), 1, "start 4 parts at step 25: batch, weights"),
        (("lightning_alone.py", "--exact"), 0, f"{ALL_SAME} (batch, weights, optimizer)"),
    ],
)
def test_the_examples_of_the_page(capsys, words, code, last):
    assert here("resumetest", "--", sys.executable, str(HERE / words[0]), "{dir}", *words[1:]) == code
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
    process = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL)
    while not (found := [path for path in tmp_path.glob("*/run.pid") if path.read_text()]):
        time.sleep(0.05)
    pid = int(found[0].read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    wait_for_end([pid])
    assert list(tmp_path.iterdir()) == []
