"""Pictures: read from files, put side by side, drawn."""
