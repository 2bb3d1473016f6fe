"""Datasets: downloading, reading, splitting and batching."""
