"""Sweeps: grids and searches, whose jobs run locally or on a cluster."""
