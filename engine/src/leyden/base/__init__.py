"""The ground of the library: errors and arguments, the project's paths, tables, terminal output and doors."""
