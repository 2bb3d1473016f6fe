"""A run that is asked, before it is trained, whether it resumes to the same bits: `exact=test`."""

import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from leyden.base.errors import Exit, UserError, leave
from leyden.base.terminal import show
from leyden.exact.resumption import DIR, Starts, compare_killed
from leyden.run.process import num_processes

START_TIMEOUT_S = 600  # of each start of a training of a few batches
KILLS = 2
# Overrides of a training that is tested: two epochs of four batches, with a checkpoint after each.
TESTED = {
    "exact": "report",
    "test": "false",
    "resume": "auto",
    "++trainer.max_epochs": "2",
    "++trainer.limit_train_batches": "4",
    "++trainer.limit_val_batches": "2",
    "callbacks.checkpoint.every_n_steps": "1",
    "run_dir": DIR,
}


def test_resume(cfg: DictConfig, overrides: list[str], *, is_job: bool) -> None:
    """Train a few batches undisturbed and with kills, compare each step, and print what was found.

    Nothing is kept.

    Raises:
        UserError: This can't be tested.
        SystemExit: A resumed run parts.
    """
    if is_job or cfg.fork or num_processes() > 1:
        raise UserError("exact=test: tests one new run; not with -m, fork or torchrun")
    names = {each.lstrip("+") for each in TESTED}
    kept = [each for each in overrides if each.partition("=")[0].lstrip("+~") not in names]
    tested = [f"{key}={value}" for key, value in TESTED.items()]
    command = [sys.executable, "-m", "leyden.train", *kept, *tested]
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        starts = Starts(command, Path(folder), START_TIMEOUT_S, show)
        is_same, text = compare_killed(starts, KILLS, cfg.seed)
    show(text)
    if not is_same:
        leave(Exit.DIFFERENT)
