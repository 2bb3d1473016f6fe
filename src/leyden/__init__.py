"""Leyden: a research template for PyTorch Lightning."""
