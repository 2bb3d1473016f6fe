"""The project's losses, metrics and LightningModules."""
