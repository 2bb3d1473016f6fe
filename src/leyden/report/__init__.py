"""Many runs: a table, a picture, and rows for TensorBoard."""
