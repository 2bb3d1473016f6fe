"""The ground of the library: errors, arguments, paths, tables, terminal output and doors."""
