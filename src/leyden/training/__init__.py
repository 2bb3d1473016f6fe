"""A run from its configuration to its result; and a trained one, put to use."""
