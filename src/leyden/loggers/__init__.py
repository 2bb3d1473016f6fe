"""Lightning loggers that write to a run directory, and go on in it."""
