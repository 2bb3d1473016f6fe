"""Lightning callbacks that a run needs: checkpoints, resumable state, weight averaging and progress."""
