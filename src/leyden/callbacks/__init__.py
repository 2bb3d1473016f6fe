"""Lightning callbacks that keep, resume and watch a run."""
