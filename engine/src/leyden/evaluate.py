"""Evaluate a run, or all runs of a sweep's setting, on the test set."""

from pathlib import Path

from omegaconf import DictConfig

from leyden.config.checks import CHOICES, require_choice
from leyden.config.errors import UserError
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
        from leyden.training.trained import Trained, evaluate, runs_of_row
    require_choice(cfg, "format", *CHOICES["evaluate.format"])
    row, overlap = "", 0.0
    if cfg.run is not None:
        run = Run(cfg.run, trust=cfg.trust)
        run.checkpoint(cfg.checkpoint)  # refused before the data are read
        runs = [Trained(run, cfg.checkpoint, data_root=cfg.data_root)]
    else:
        given = {"data_root": cfg.data_root, "trust": cfg.trust}
        runs, row, overlap = runs_of_row(Path(cfg.runs), cfg.row, cfg.checkpoint, **given)
    found = evaluate(runs, outputs=cfg.outputs, accelerator=cfg.accelerator, row=row, overlap=overlap)
    if cfg.format == "json":
        print(json_text({"of": found.where, "metrics": found.metrics, "test_evaluations": found.number}))
        return
    print_table([{"metric": name, "value": text} for name, text in found.shown.items()], header=False)
    show(f"{found.where}\n{found.message}")


if __name__ == "__main__":
    main()
