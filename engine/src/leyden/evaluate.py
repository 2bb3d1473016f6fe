"""Evaluate a run, or all runs of a sweep's setting, on the test set."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden.cluster.verb import or_as_job
from leyden.config.checks import require_choice
from leyden.config.errors import UserError
from leyden.config.schema import CHOICES
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.evaluations import count_text
from leyden.run.process import importing
from leyden.verdict.numbers import metric_text


@or_as_job("evaluate")
@hydra_command
def main(cfg: DictConfig) -> None:
    """Print the test metrics, and record the test evaluation."""
    if (cfg.run is None) == (cfg.runs is None):
        raise UserError("run=DIR, or runs=DIR with row=NUMBER, must be given; --help lists the keys")
    with importing():
        from leyden.training.trained import Trained, evaluate, evaluate_row
    require_choice(cfg, "format", *CHOICES["evaluate.format"])
    measured: dict[str, Any]
    options = {"outputs": cfg.outputs, "accelerator": cfg.accelerator}
    if cfg.run is not None:
        run = Run(cfg.run, trust=cfg.trust)
        where = str(run.checkpoint(cfg.checkpoint))
        measured, num_evaluations = evaluate(Trained(run, cfg.checkpoint, data_root=cfg.data_root), **options)
        shown = {name: metric_text(value) for name, value in measured.items()}
    else:
        where, run, measured, shown, num_evaluations = evaluate_row(
            Path(cfg.runs),
            cfg.row,
            cfg.checkpoint,
            data_root=cfg.data_root,
            trust=cfg.trust,
            **options,
        )
    if cfg.format == "json":
        is_counted = isinstance(num_evaluations, int)
        content = {"of": where, "metrics": measured, "test_evaluations": num_evaluations if is_counted else None}
        print(json_text(content))
        return
    print_table([{"metric": name, "value": text} for name, text in shown.items()], header=False)
    if isinstance(num_evaluations, int):
        num_evaluations = count_text(str(run.config.get("name")), num_evaluations)
    show(f"{where}\n{num_evaluations}")


if __name__ == "__main__":
    main()
