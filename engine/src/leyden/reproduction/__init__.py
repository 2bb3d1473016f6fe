"""Reproduction of a run from its directory: with its code, configuration and package versions."""
