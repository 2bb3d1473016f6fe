"""Settings of the library, which Hydra searches behind those of a project."""
