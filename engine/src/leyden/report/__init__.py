"""Reports on runs: lists, summaries, comparisons, differences, and rows for TensorBoard."""
