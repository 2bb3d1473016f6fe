"""What a run is and where it comes from, beside its curves."""

import json
import shlex

import lightning as L

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import tensorboard_writer
from leyden.config.values import flatten
from leyden.run.choices import typed_choices
from leyden.run.directory import Run


class Texts(Showing):
    """Shows each logger the resolved configuration; in TensorBoard's texts also where the run comes from.

    `run/config` is `config.yaml`, `run/provenance` the last start in `provenance.json`, and `run/command` what
    starts the same run anew, also for a job of a sweep.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write them at each start, at its step."""
        if not trainer.is_global_zero:
            return
        run = Run(trainer.default_root_dir)
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flatten(run.config)))
        if writer := tensorboard_writer(trainer):
            start = json.loads((run.directory / "provenance.json").read_text(encoding="utf-8"))[-1]
            diff = start["git"].pop("diff") or ""
            config = (run.directory / "config.yaml").read_text(encoding="utf-8")
            step = trainer.global_step
            writer.add_text("run/config", _block(config), step)
            writer.add_text("run/provenance", _block(json.dumps(start, indent=2)), step)
            writer.add_text("run/command", _block(command(run, start["git"]["sha"], bool(diff))), step)


def command(run: Run, sha: str | None, changed: bool) -> str:
    """The command that makes the same run anew."""
    typed = [override for override in run.overrides if typed_choices([override])]
    checkout = f"git checkout {sha}\n" if sha else ""
    if changed:
        checkout += "git apply diff  # git.diff in provenance.json\n"
    return checkout + shlex.join(["python", "-m", "leyden.train", *typed])


def _block(text: str) -> str:
    """Markdown that shows a text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
