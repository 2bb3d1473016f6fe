"""The requeue of a job, as `Exact` does it by itself."""

import signal
import threading

import lightning as L
import pytest

from leyden.exact import Exact
from leyden.exact.job import requeue_job
from tests.strangers.plain import Plain, PlainData

ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
CASES = [
    ({}, "exit 1", False, ""),
    ({"SLURM_JOB_ID": "7"}, "true", True, "requeue of job 7: requested\n"),
    # The last task of an array, whose own id is that of all.
    ({"SLURM_JOB_ID": "7", **ARRAY}, "true", True, "requeue of job 7_3: requested\n"),
    (
        {"SLURM_JOB_ID": "7"},
        "echo down >&2; exit 1",
        False,
        "requeue of job 7: down; started again, the run resumes\n",
    ),
    ({"SLURM_JOB_ID": "7"}, None, False, "'scontrol'; started again, the run resumes\n"),
]


def fake(folder, text):
    (folder / "scontrol").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "scontrol").chmod(0o755)


@pytest.mark.parametrize(("variables", "does", "is_requeued", "told"), CASES)
def test_a_task_of_an_array_requeues_itself_alone(
    monkeypatch, tmp_path, capfd, variables, does, is_requeued, told
):
    for name in ("SLURM_JOB_ID", *ARRAY):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "PATH": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    if does:
        asks = f'[ "$*" = "requeue {told.split()[3][:-1]}" ] || exit 9\n' if told else ""
        fake(tmp_path, asks + does)
    assert requeue_job() == is_requeued
    assert capfd.readouterr().err.endswith(told)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_exact_requeues_it_also_by_a_signal_that_was_blocked_while_python_was_importing(
    monkeypatch, tmp_path
):
    for name, value in {**ARRAY, "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake(tmp_path, f'echo "$*" >>{tmp_path}/told')
    exact = Exact(tmp_path / "run")
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[exact], **off)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        with pytest.raises(SystemExit) as stop:
            exact.fit(trainer, Plain(), PlainData())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "told").read_text() == "requeue 7_3\n"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
