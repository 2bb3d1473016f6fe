"""Train a network: one run."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from leyden.cluster import slurm
from leyden.command import command
from leyden.config import UserError, objectives, prepare
from leyden.hparams import write_hparams
from leyden.looks import record_look
from leyden.run import LOCK_TIMEOUT_S, Run, is_main_process, with_values
from leyden.sweep import slug  # noqa: F401 - names the directories of jobs in conf/train.yaml

if TYPE_CHECKING:  # at run time they are imported once the configuration is known to be right: it takes seconds
    import lightning as L

    from leyden.classifier import Classifier
    from leyden.data.datamodule import ImageDataModule


def train(
    classifier: "Classifier",
    datamodule: "ImageDataModule",
    trainer: "L.Trainer",
    run: Run,
    *,
    checkpoint: Path | None,
    test: bool,
) -> dict[str, Any]:
    """Train, then evaluate the best checkpoint: on the test set, or for pictures on the validation split.

    Args:
        classifier: What is trained.
        datamodule: On what.
        trainer: By what; `build.trainer` makes one with the callbacks that this needs.
        run: Where.
        checkpoint: From where on; None: from the start.
        test: Whether to evaluate on the test set in the end.

    Returns:
        What `result.json` tells of a finished run, less the objective.
    """
    from lightning.pytorch.callbacks import Timer

    from leyden.callbacks.checkpoint import RunCheckpoint
    from leyden.callbacks.evaluation import OnEvaluation

    trainer.fit(classifier, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (timer,) = (callback for callback in callbacks if isinstance(callback, Timer))
    (kept,) = (callback for callback in callbacks if isinstance(callback, RunCheckpoint))
    samples = min(len(datamodule.splits["train"][1]), datamodule.batch_size * int(trainer.num_training_batches))
    num_parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    metrics: dict[str, Any] = {**kept.best, "num_parameters": num_parameters}
    result = {
        "status": "pruned" if any(getattr(callback, "pruned", False) for callback in callbacks) else "finished",
        "metrics": metrics,
        "epochs": trainer.current_epoch,
        "optimizer_steps": trainer.global_step,
        "seconds": timer.time_elapsed(),
        "samples_per_second": samples * trainer.current_epoch / timer.time_elapsed(),
        "checkpoint": "checkpoints/best.ckpt",
        "requeues": slurm.num_requeues(),
        "error": None,
    }
    if not kept.best:
        raise UserError(f"objective.metric={kept.metric} was never logged")
    if test:
        best = run.checkpoint("best")
        (measured,) = trainer.test(
            classifier, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False
        )
        metrics.update(measured)
    elif "val" in datamodule.splits and any(isinstance(callback, OnEvaluation) for callback in callbacks):
        best = run.checkpoint("best")
        trainer.validate(classifier, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
    return result


@command
def main(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """Train as configured, or return what the run directory holds already; the value is the objective's."""
    hydra_cfg = HydraConfig.get()
    config = prepare(cfg, hydra_cfg.runtime.output_dir)
    run = Run(cfg.run_dir)
    is_job = hydra_cfg.mode == RunMode.MULTIRUN
    # Where two sweeps have a job in common, one waits for the other, and takes its result.
    with run.locked(config, resume=cfg.resume, timeout_s=-1 if is_job else LOCK_TIMEOUT_S):
        if run.is_finished(config):
            assert run.result is not None
            result = run.result
        elif cfg.dry_run:
            _check_only(cfg)
            return None
        else:
            test = not is_job if cfg.test == "auto" else cfg.test
            result = _start(cfg, config, run, test=test, overrides=list(hydra_cfg.overrides.task))
        if is_main_process():
            _report(run, result)
    values = tuple(float(objective["value"]) for objective in objectives(result["objective"]))
    return (values[0] if len(values) == 1 else values) if values else None


def _check_only(cfg: DictConfig) -> None:
    from leyden.heavy import build

    build.quiet()
    build.check(cfg, {})
    print("This would train. dry_run=true: nothing was done.")


def _start(
    cfg: DictConfig, config: dict[str, Any], run: Run, *, test: bool, overrides: list[str]
) -> dict[str, Any]:
    from leyden.heavy import build

    build.quiet()

    import lightning as L

    L.seed_everything(cfg.seed, verbose=False)
    checkpoint = run.newest_checkpoint()
    trainer = build.trainer(cfg, run, checkpoint)
    datamodule = build.datamodule(cfg, trainer.world_size)
    classifier = build.classifier(cfg, datamodule)
    if test and is_main_process():
        try:  # now, before training, not after it
            Path(cfg.outputs).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"outputs={cfg.outputs}: can't be written to ({error.strerror})") from error
    run.begin(config, overrides)
    try:
        if slurm.num_requeues() > cfg.cluster.max_requeues:
            raise UserError(
                f"requeued {slurm.num_requeues()} times, more than cluster.max_requeues={cfg.cluster.max_requeues}"
            )
        result = train(classifier, datamodule, trainer, run, checkpoint=checkpoint, test=test)
        if test and is_main_process():
            measured = {name: value for name, value in result["metrics"].items() if name.startswith("test/")}
            record_look(cfg.outputs, run, "best", measured)
    except Exception as error:
        progress = {"epochs": trainer.current_epoch, "num_steps": trainer.global_step}
        run.fail(config, type(error).__name__, str(error), **progress)
        write_hparams(run)
        if isinstance(error, FloatingPointError | OSError | UserError):
            raise UserError(f"{run.directory} failed: {error}") from error
        raise
    except SystemExit as stop:  # by Ctrl-C or SIGTERM; Lightning would end with 0 after the latter
        if is_main_process():
            saved = (run.directory / "checkpoints" / "last.ckpt").exists()
            then = "goes on" if saved else "starts over, nothing was saved yet"
            print(f"Interrupted. The same command with run_dir={run.directory} {then}.", file=sys.stderr)
        raise SystemExit(stop.code or 128 + signal.SIGTERM) from None
    finally:
        for logger in trainer.loggers:
            if hasattr(logger, "close"):  # Lightning's own have no such thing
                logger.close()
    result = {
        "status": result.pop("status"),
        "objective": with_values(config["objective"], result["metrics"]),
        **result,
    }
    run.end(result)
    write_hparams(run)
    return result


def _report(run: Run, result: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for objective in objectives(result["objective"])[:1]:
        table.add_row("best epoch by", objective["metric"])
    for name, value in result["metrics"].items():
        real = f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3g}"
        table.add_row(name, f"{value:,}" if isinstance(value, int) else real)
    table.add_row("epochs", str(result["epochs"]))
    table.add_row("time", f"{result['seconds']:.1f} s")
    table.add_row("speed", f"{result['samples_per_second']:,.0f} samples/s")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    where = run.directory
    if where.is_relative_to(Path.cwd()):
        where = where.relative_to(Path.cwd())
    console.print(f"run directory: {where}\nto look at it:  make tensorboard DIR={shlex.quote(str(where))}")


if __name__ == "__main__":
    main()
