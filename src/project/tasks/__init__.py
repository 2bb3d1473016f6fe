"""Losses, metrics and LightningModules of your own."""
