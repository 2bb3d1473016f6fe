"""Configuration: its schema, checks and composition."""
