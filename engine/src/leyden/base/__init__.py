"""What all of the library stands on: errors and arguments, the project's paths, tables, terminal output and doors."""
