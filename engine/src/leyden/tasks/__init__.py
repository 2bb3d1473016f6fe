"""Tasks: a loss with its metrics, optimizer and learning-rate schedule."""
