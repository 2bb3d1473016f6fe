"""The memory of a process: what a run must keep, so that it resumes to the same bits."""
