"""Files that the library writes into a project: new parts, and the configuration that makes it a project."""
