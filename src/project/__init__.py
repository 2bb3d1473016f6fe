"""The worked example, run by the library `leyden`: replace it with your own work."""
