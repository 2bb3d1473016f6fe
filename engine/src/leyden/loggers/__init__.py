"""Lightning loggers that write to the run directory, and continue there when the run resumes."""
