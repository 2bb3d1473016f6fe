"""What is trained on what, at the start of a run."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from leyden.callbacks.showing import Showing
from leyden.config.terminal import Terminal
from leyden.data.contract import sizes_of
from leyden.tasks.task import network_of


class Summary(Showing):
    """Prints the layers with their parameters, the sizes of the splits, and where training runs."""

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table, and where the run goes on from."""
        network = network_of(pl_module)
        table = Table("layer", "type", "parameters", box=None)
        table.columns[2].justify = "right"
        for name, module in network.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            if own > 0:
                table.add_row(name, type(module).__name__, f"{own:,}")
        total = sum(parameter.numel() for parameter in network.parameters())
        table.add_row("total", type(network).__name__, f"{total:,}")
        # The loaders that are used: others would be made with samplers of their own, that the data module then knows.
        known = sizes_of(trainer.datamodule, trainer.train_dataloader, trainer.val_dataloaders)  # type: ignore[attr-defined]
        sizes = ", ".join(split if num is None else f"{num:,} {split}" for split, num in known.items())
        device = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
        console = Terminal()
        console.print(table)
        console.print(f"samples: {sizes}; device: {device}; run directory: {trainer.default_root_dir}")
        if trainer.ckpt_path:
            console.print(f"goes on from {trainer.ckpt_path}, step {trainer.global_step}")
