"""A run: its directory, identity, provenance, session and result."""
