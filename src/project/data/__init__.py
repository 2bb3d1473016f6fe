"""Data sets: where their files come from."""
