"""Slurm's commands answer in pieces, with other lines between, late or not at all: no traceback, and no job is taken for ended."""

import os

import pytest

from leyden.base.errors import UserError
from leyden.queue import Work, script, slurm
from leyden.testing.contracts import compose

pytestmark = pytest.mark.faults

STATES = [
    ("RUNNING", "None"),
    ("PENDING", "Priority"),
    ("PENDING", "(launch failed requeued held)"),
    ("COMPLETING", "None"),
    ("COMPLETED", "None"),
    ("FAILED", "NonZeroExitCode"),
    ("NEW_STATE", "é"),
]
BANNER = [
    "Welcome to the cluster!",
    "slurm_load_jobs: retrying",
    "*** down on Monday ***",
    "é",
    "\ufeff",
]
LINES = {
    "blank": [b"\n", b" \n", b"\t\n\n"],
    "banner": [f"{line}\n".encode() for line in BANNER],
}
KINDS = ["blank", "cut", "bytes", "banner", "carriage", "code"]


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """A function that sets what a command prints and how it ends."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(script, "ANSWER_S", 5)

    def set_answer(command, out=b"", error=b"", code=0, pause=0):
        path = tmp_path / "bin" / command
        path.with_suffix(".out").write_bytes(out)
        path.with_suffix(".error").write_bytes(error)
        prints = f"cat {path}.out\ncat {path}.error >&2"
        path.write_text(f"#!/bin/sh\nsleep {pause}\n{prints}\nexit {code}\n")
        path.chmod(0o755)

    return set_answer


def damaged(rng, lines):
    """Lines as bytes, with what goes wrong; and the code that the command ends with."""
    out = "".join(f"{line}\n" for line in lines).encode()
    code = 0
    for kind in rng.sample(KINDS, rng.randrange(1, 4)):
        line_starts = [n + 1 for n, byte in enumerate(out) if byte == ord("\n")]
        place = rng.choice([0, *line_starts])
        if kind in LINES:
            out = out[:place] + rng.choice(LINES[kind]) + out[place:]
        elif kind == "carriage":
            out = out.replace(b"\n", b"\r\n")
        elif kind == "bytes" and out:
            place = rng.randrange(len(out))
            out = (
                out[:place]
                + rng.choice([b"\xff", b"\xc3", b"\x00", b"\x0b", b"\x1b[0m", b"|"])
                + out[place:]
            )
        elif kind == "cut" and out.rstrip():
            ends = [
                n for n in range(1, len(out)) if not {*out[n - 1 : n + 1]} & {*b"\r\n"}
            ]  # within a line
            out = out[: rng.choice(ends or [len(out)])]
        elif kind == "code":
            code = rng.choice([1, 137])
    return out, code


def test_no_job_is_taken_for_ended(answer, trials, rng):
    for n in range(5 * trials):
        truth = {
            f"{rng.randrange(1, 999)}_{task}": rng.choice(STATES)
            for task in range(rng.randrange(1, 5))
        }
        out, code = damaged(
            rng, [f"{job}|{state}|{reason}|" for job, (state, reason) in truth.items()]
        )
        told = f"trial {n}: {truth}\n{out!r}, {code}"
        pause = 0 if n else 9
        answer("squeue", out, rng.choice([b"", b"slurm_load_jobs error: \xff\n"]), code, pause)
        for job, state in slurm.slurm_states([*truth]).items():
            assert (state.phase == "ended") == (truth[job][0] in slurm.ENDED), told
            assert pause == 0, told


def test_what_is_accepted_is_not_taken_for_rejected(answer, trials, rng, tmp_path):
    """What may have been accepted ends at once: its files are gone."""
    config = compose("cluster=slurm_cpu")
    for n in range(trials):
        out, code = damaged(
            rng, [rng.choice(["Submitted batch job 71", "Submitted batch job", ""])]
        )
        error = rng.choice([b"", b"sbatch: error: QOSMaxSubmitJobPerUserLimit\n", b"\xff\n"])
        told = f"trial {n}: {out!r}, {error!r}, {code}"
        answer("sbatch", out, error, code)
        works = [Work(os.system, ("exit",), None, None) for _ in range(rng.choice([1, 3]))]
        jobs = []
        problem = ""
        try:
            jobs = slurm.Slurm(config, tmp_path / str(n)).submit(works, "r", "python3")
        except UserError as raised:
            problem = str(raised)
        if problem:
            assert code or "see squeue before you try again" in problem, told
            assert len(problem.splitlines()) == 1, told
            assert not [*(tmp_path / str(n)).iterdir()], told
        else:
            assert {job["job_id"].partition("_")[0] for job in jobs} == {"71"}, told
