"""What is trained on what, at the start of a run."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from leyden.callbacks.sparse import Sparse


class Summary(Sparse):
    """Prints the layers with their parameters, the sizes of the splits, and where training runs."""

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print it."""
        network = pl_module.get_submodule("network")
        table = Table("layer", "type", "parameters", box=None)
        table.columns[2].justify = "right"
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            if own > 0:
                table.add_row(name, type(module).__name__, f"{own:,}")
        total = sum(parameter.numel() for parameter in network.parameters())
        table.add_row("total", type(network).__name__, f"{total:,}")
        splits = trainer.datamodule.splits  # type: ignore[attr-defined]
        sizes = ", ".join(f"{len(labels):,} {split}" for split, (_, labels) in splits.items())
        device = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
        console = Console(highlight=False, markup=False, soft_wrap=True)
        console.print(table)
        console.print(f"images: {sizes}; device: {device}; run directory: {trainer.default_root_dir}")
        if trainer.ckpt_path:
            console.print(f"goes on from {trainer.ckpt_path}, step {trainer.global_step}")
