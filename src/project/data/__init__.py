"""Data sets, and the download of their files."""
