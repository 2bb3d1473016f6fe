"""Evaluate a run, or all runs of a sweep's setting, on the test set."""

from pathlib import Path

from omegaconf import DictConfig

from leyden.config.checks import require_choice
from leyden.config.errors import UserError
from leyden.config.schema import CHOICES
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.process import importing


@hydra_command
def main(cfg: DictConfig) -> None:
    """Print the test metrics, and record the test evaluation."""
    if (cfg.run is None) == (cfg.runs is None):
        raise UserError("run=DIR, or runs=DIR with row=NUMBER, must be given; --help lists the keys")
    with importing():
        from leyden.training.trained import Trained, evaluate, evaluate_row
    require_choice(cfg, "format", *CHOICES["evaluate.format"])
    options = {"outputs": cfg.outputs, "accelerator": cfg.accelerator}
    if cfg.run is not None:
        run = Run(cfg.run, trust=cfg.trust)
        run.checkpoint(cfg.checkpoint)  # refused before the data are read
        found = evaluate(Trained(run, cfg.checkpoint, data_root=cfg.data_root), **options)
    else:
        options |= {"data_root": cfg.data_root, "trust": cfg.trust}
        found = evaluate_row(Path(cfg.runs), cfg.row, cfg.checkpoint, **options)
    if cfg.format == "json":
        print(json_text({"of": found.where, "metrics": found.metrics, "test_evaluations": found.number}))
        return
    print_table([{"metric": name, "value": text} for name, text in found.shown.items()], header=False)
    show(f"{found.where}\n{found.message}")


if __name__ == "__main__":
    main()
