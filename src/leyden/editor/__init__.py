"""JSON schemas by which an editor completes and checks the files in `conf/`."""
