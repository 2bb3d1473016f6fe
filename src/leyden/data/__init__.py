"""Data sets: fetched, held in memory, in batches."""
