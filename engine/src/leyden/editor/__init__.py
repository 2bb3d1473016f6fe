"""JSON schemas with which an editor completes and checks the files in `conf/`."""
