"""Evaluate a run on the test set."""

from omegaconf import DictConfig
from rich.table import Table

from leyden.config.terminal import Terminal
from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.process import importing


@hydra_command
def main(cfg: DictConfig) -> None:
    """Print a run's test metrics, and record the test evaluation."""
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)
    with importing():
        from leyden.training.trained import evaluate
    metrics, num_evaluations = evaluate(
        run, checkpoint, outputs=cfg.outputs, data_root=cfg.data_root, accelerator=cfg.accelerator
    )
    table = Table(show_header=False, box=None)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    console = Terminal()
    console.print(table)
    count = f"test evaluations by {run.config.get('name')} so far: {num_evaluations}"
    console.print(f"{checkpoint}\n{num_evaluations if isinstance(num_evaluations, str) else count}")


if __name__ == "__main__":
    main()
