"""Lightning loggers that write to the run directory, and continue there when the run resumes.

A logger is any of Lightning's, with a YAML in `conf/logger/`. It is created with `save_dir`, the run directory. These
are optional:

- `purge_step: ???` in the YAML: it is created with the step that the run resumes from, and drops later points.
- `needs`: the package that must be installed, checked before training.
- `attach_trainer(trainer)`: called once, for loggers that need the trainer's state.
- `log_image(key, images, step)`: it receives the run's pictures.
- `close()`: called after the run.
"""
