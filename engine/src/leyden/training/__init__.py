"""Training a run from its configuration, and evaluation, prediction and export of trained runs."""
