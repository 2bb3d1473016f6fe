"""Commands configured by Hydra, with readable error messages."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from leyden.config.errors import UserError, ending, require_project
from leyden.config.explain import check_overrides, explain, refuse_sweep
from leyden.config.hydra import (
    complete,
    compose_command,
    composing,
    help_text,
    is_sweep,
    run_task,
    shown_config,
    sources,
)
from leyden.config.terminal import warn
from leyden.run.process import is_main_process

# Hydra settings that conflict with run directories, each with its replacement.
REPLACEMENTS = {
    "hydra.run.dir": "run_dir names the run directory",
    "hydra.sweep.dir": "sweep_name names the sweep, and outputs the folder of all sweeps",
    "hydra.sweep.subdir": "each job of a sweep has a directory of its own",
    "hydra.output_subdir": "the run directory has config.yaml and run.json",
    "hydra.job.chdir": "a relative path is relative to where the command is started",
    "hydra.mode": "-m makes a sweep",
}


def hydra_command(
    task: Callable[[DictConfig], Any],
    *,
    sweep: Callable[[DictConfig, str], None] | None = None,
    config_name: str | None = None,
) -> Any:
    """Make `task` a command, configured by `conf/<task's module>.yaml`.

    A user's mistake (Hydra's errors included) is printed in one or two lines to stderr, with exit code 2;
    `HYDRA_FULL_ERROR=1` prints the traceback instead. A bug in the user's code is printed with its traceback.

    Args:
        task: Function of the configuration.
        sweep: Function that runs a sweep, of its configuration and the name of the module whose `main.task` runs a
            job; None if the command takes one run.
        config_name: Name of the file in `conf/`; None for that of the module.
    """
    name = config_name or Path(task.__code__.co_filename).stem

    def main() -> None:
        with ending(explain):
            if sys.platform == "win32" and sweep and is_main_process():
                warn(
                    "on Windows a run can't save before it is terminated; it resumes from its last epoch; and there is no Slurm"
                )
            require_project()
            options = _parse(name, sys.argv[1:], can_sweep=sweep is not None)
            _run(options, task, sweep)

    main.task = task  # type: ignore[attr-defined]  # called by a sweep's jobs
    return main


def _run(
    options: argparse.Namespace,
    task: Callable[[DictConfig], Any],
    sweep: Callable[[DictConfig, str], None] | None,
) -> None:
    """Compose the configuration, and do what the options ask for."""
    name, overrides = options.config_name, options.overrides
    with composing(options.config_dir, job_name=name):
        if options.shell_completion:
            complete(name, *(each.removeprefix("query=") for each in overrides))
            return
        parsed = check_overrides(overrides)
        try:
            cfg = compose_command(name, [*overrides, *(["hydra.mode=MULTIRUN"] if options.multirun else [])])
        except UserError:
            raise
        except Exception as error:  # Hydra and OmegaConf raise various types
            raise UserError(explain(error)) from error
        if options.help:
            print(help_text(cfg))
        elif options.cfg:
            print(shown_config(cfg, options.cfg, options.package, resolve=options.resolve), end="")
        elif options.info:
            from leyden.config.table import print_table  # late, as it imports rich

            print_table(sources(cfg, name, overrides, options.info))
        elif sweep and is_sweep(cfg):
            sweep(cfg, _module(task))
        else:
            refuse_sweep(parsed)
            run_task(task, cfg)


def _module(task: Callable[..., Any]) -> str:
    """Return the name by which a function's module is imported, also if it is run by `python -m`."""
    module = sys.modules[task.__module__]
    return module.__spec__.name if module.__spec__ else module.__name__


class _Parser(argparse.ArgumentParser):
    """Parser of options, whose mistakes are raised."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def _parse(name: str, argv: Sequence[str], *, can_sweep: bool) -> argparse.Namespace:
    """Return the options and overrides of a command line; options may stand anywhere among overrides.

    Raises:
        UserError: An argument is refused; the message names it and what to type instead.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", choices=("searchpath", "defaults"))
    parser.add_argument("--config-name", "-cn", default=name)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        bare = unknown[0].lstrip("-")
        what = f"a key has no dashes, such as {bare}" if "=" in bare else "--help lists the options"
        raise UserError(f"{unknown[0]}: no such option; {what}")
    if options.config_dir and not options.config_dir.is_dir():
        raise UserError(f"--config-dir {options.config_dir}: there is no such folder")
    if options.multirun and not can_sweep:
        raise UserError(f"-m: is for leyden train; {name} takes one run")
    if is_main_process():  # Lightning starts the other ranks with its own arguments
        _refuse(options)
        if can_sweep and any("fork=" in argument for argument in options.overrides):
            from leyden.run.fork import fork_arguments  # late, as it imports much

            sys.argv[1:] = fork_arguments(argv, is_sweep=options.multirun)
            options, _ = parser.parse_known_intermixed_args(sys.argv[1:])
    return options


def _refuse(options: argparse.Namespace) -> None:
    """Refuse overrides that Hydra would accept but Leyden does not support."""
    for text in options.overrides:
        key = text.partition("=")[0].lstrip("+~")
        if replacement := REPLACEMENTS.get(key):
            raise UserError(f"{key}: can't be set: {replacement}")
        if not options.multirun and key in ("sweep.seeds", "sweep.settings", "sweep.space"):
            raise UserError(f"{text}: is for a sweep, which needs -m")
