"""`exact=test`: a few batches of a training, with kills, before a week of it."""

import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from leyden.config.errors import Exit, UserError, leave
from leyden.config.terminal import show
from leyden.exact import ExactError
from leyden.exact.kills import TIMEOUT_S, Starts, compare_killed
from leyden.run.process import num_processes

# Overrides of a training that is tested: two epochs of four batches, with a checkpoint after each.
TESTED = {
    "exact": "report",
    "test": "false",
    "resume": "auto",
    "++trainer.max_epochs": "2",
    "++trainer.limit_train_batches": "4",
    "++trainer.limit_val_batches": "2",
    "callbacks.checkpoint.every_n_steps": "1",
    "run_dir": "{dir}",
}


def test_resume(cfg: DictConfig, overrides: list[str], *, is_job: bool) -> None:
    """Train a few batches undisturbed and with kills, compare each step, and print what was found; nothing is kept.

    Raises:
        UserError: This can't be tested.
        SystemExit: A resumed run parts.
    """
    if is_job or cfg.fork or num_processes() > 1:
        raise UserError("exact=test: tests one new run; not with -m, fork or torchrun")
    names = {each.lstrip("+") for each in TESTED}
    kept = [each for each in overrides if each.partition("=")[0].lstrip("+~") not in names]
    command = [sys.executable, "-m", "leyden.train", *kept, *(f"{key}={value}" for key, value in TESTED.items())]
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        try:
            is_same, text = compare_killed(Starts(command, Path(folder), TIMEOUT_S), 2, cfg.seed)
        except ExactError as error:
            raise UserError(f"exact=test: {error}") from error
    show(text)
    if not is_same:
        leave(Exit.DIFFERENT)
