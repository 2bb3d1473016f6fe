"""Configuration: its schema, checks and composition; paths, errors and terminal output."""
