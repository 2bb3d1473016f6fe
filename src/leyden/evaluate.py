"""Evaluate a run on the test set."""

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from leyden.command import command
from leyden.config import choice
from leyden.looks import record_look
from leyden.run import Run


@command
def main(cfg: DictConfig) -> None:
    """Print the test metrics of a run, and write the look down."""
    choice(cfg, "checkpoint", "best", "last")
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)

    from leyden.heavy import build

    build.quiet()

    from leyden.classifier import Classifier
    from leyden.stored import stored_config

    trainer = build.evaluator(stored_config(run), cfg.accelerator)
    network, facts = build.trained_network(run, checkpoint)
    datamodule = build.trained_data(run, facts, cfg.data_root, trainer.world_size)
    (metrics,) = trainer.test(Classifier(network=network), datamodule=datamodule, verbose=False)
    looks = record_look(cfg.outputs, run, cfg.checkpoint, dict(metrics))
    table = Table(show_header=False, box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    console.print(f"{checkpoint}\nlooks at the test set by {run.config['name']} so far: {looks}")


if __name__ == "__main__":
    main()
