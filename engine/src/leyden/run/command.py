"""Commands configured by Hydra, with readable error messages."""

import argparse
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from leyden.config.errors import UserError, cause_of, is_mistake, require_project
from leyden.config.explain import explain
from leyden.config.hydra import VERSION_BASE, help_text, parse_options, patched
from leyden.config.paths import CONF, LIBRARY, prepare_process
from leyden.config.schema import register_resolvers
from leyden.config.terminal import printable, quiet_pipe, warn
from leyden.run.process import is_main_process

# Hydra's options; argparse accepts their prefixes, too.
OPTIONS = (
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "--resolve",
    "--package",
    "--run",
    "--multirun",
    "--info",
    "--shell-completion",
    "--config-path",
    "--config-name",
    "--config-dir",
    "--experimental-rerun",
)
SHORT_OPTIONS = ("-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i")
# Hydra settings that conflict with run directories, each with its replacement.
REPLACEMENTS = {
    "hydra.run.dir": "run_dir names the run directory",
    "hydra.sweep.dir": "sweep_name names the sweep, and outputs the folder of all sweeps",
    "hydra.sweep.subdir": "each job of a sweep has a directory of its own",
    "hydra.output_subdir": "the run directory has config.yaml and run.json",
    "hydra.job.chdir": "a relative path is relative to where the command is started",
}


def hydra_command(task: Callable[[DictConfig], Any]) -> Any:
    """Make `task` a Hydra command, configured by `conf/<task's module>.yaml`.

    A user's mistake (Hydra's errors included) is printed in one or two lines to stderr, with exit code 2;
    `HYDRA_FULL_ERROR=1` prints the traceback instead. A bug in the user's code is printed with its traceback.
    """
    name = Path(task.__code__.co_filename).stem

    @patched()
    def main() -> None:
        prepare_process()
        register_resolvers()
        debug = os.environ.get("HYDRA_FULL_ERROR") == "1"

        def report(error: Exception) -> None:
            if debug or sys.gettrace():  # let the error propagate to the debugger
                return
            if is_mistake(error):
                _exit(str(error) if isinstance(error, UserError) else explain(error, name, sys.argv[1:]))
            cause = cause_of(error)
            print(printable("".join(traceback.format_exception(cause))), file=sys.stderr, end="")
            raise SystemExit(1)

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            _show_tracebacks(debug)
            try:
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # Leyden's launchers call `task` directly
                    refuse_launcher(HydraConfig.get().runtime.choices)
                with quiet_pipe():
                    return task(cfg)
            except Exception as error:
                report(error)
                raise

        try:
            if sys.platform == "win32" and name == "train" and is_main_process():
                warn(
                    "on Windows a run can't save before it is terminated; it resumes from its last epoch; and there is no Slurm"
                )
            require_project()
            if is_main_process():  # Lightning starts the other ranks with its own arguments
                options = _check_arguments(name, sys.argv[1:])
                if options.help and (text := help_text(options, name)) is not None:
                    with quiet_pipe():
                        print(text)
                    return
                if name == "train" and any("fork=" in argument for argument in sys.argv[1:]):
                    from leyden.run.fork import fork_arguments  # late, as it imports much

                    sys.argv[1:] = fork_arguments(sys.argv[1:], is_sweep=options.multirun)
            # Make Hydra raise its own errors instead of printing them.
            _show_tracebacks(True)
            hydra.main(config_path=str(CONF), config_name=name, version_base=VERSION_BASE)(job)()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the exit
            print("Interrupted.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None
        except Exception as error:
            report(error)
            raise
        finally:
            _show_tracebacks(debug)

    main.task = task  # type: ignore[attr-defined]  # called by a sweep's workers
    return main


def refuse_launcher(groups: Mapping[str, str]) -> NoReturn:
    """Refuse a launcher that is not one of Leyden's.

    Args:
        groups: The choice for each config group, as in Hydra's `runtime.choices`.

    Raises:
        UserError: Always; the message names the allowed launchers.
    """
    names = sorted(path.stem for path in (LIBRARY / "conf" / "hydra" / "launcher").glob("*.yaml"))
    raise UserError(
        f"hydra/launcher={groups['hydra/launcher']}: must be {' or '.join(names)}, whose runs can be checked and resumed; "
        f"set {' or '.join(f'cluster={name}' for name in names)}"
    )


def _check_arguments(name: str, argv: list[str]) -> argparse.Namespace:
    """Return Hydra's options; refuse arguments that Hydra would accept but Leyden does not support.

    Raises:
        UserError: An argument is refused; the message names it and what to type instead.
    """
    is_sweep = any(each == "-m" or (len(each) > 3 and "--multirun".startswith(each)) for each in argv)
    for argument in argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UserError(f"{argument}: holds bytes that are not UTF-8; rename the file or folder")
        key, has_value, value = argument.partition("=")
        if (
            argument.startswith("-")
            and key not in SHORT_OPTIONS
            and not (argument.startswith("--") and any(option.startswith(key) for option in OPTIONS))
        ):
            bare = argument.lstrip("-")
            raise UserError(f"{argument}: no such option; a key has no dashes, such as {bare or 'seed=1'}")
        if has_value and not key.lstrip("+~").partition("@")[0]:
            raise UserError(f"{argument}: no key is before the =; must be KEY=VALUE, such as seed=1")
        if replacement := REPLACEMENTS.get(key.lstrip("+~")):
            raise UserError(f"{key}: can't be set: {replacement}")
        if name != "train" and argument in ("-m", "--multirun"):
            raise UserError(f"{argument}: is for leyden.train; {name} takes one run")
        if not is_sweep and key in ("sweep.seeds", "sweep.settings", "sweep.space"):
            raise UserError(f"{argument}: is for a sweep, which needs -m")
        if is_sweep and value.lstrip().startswith("zip("):
            raise UserError(f"{argument}: write rows of values as sweep.settings=[{{KEY:VALUE,...}},...]")
        if has_value and value == "{}" and not key.startswith("+"):
            raise UserError(
                f"{argument}: changes nothing; {key}=null or ~{key} removes it, {key}.KEY=... sets a key"
            )

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; python -m leyden.{name} --hydra-help lists the options")

    return parse_options(argv, refuse)


def _show_tracebacks(enabled: bool) -> None:
    """Set whether Hydra raises its errors or prints them; an environment variable is its only switch."""
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if enabled:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _exit(message: str) -> NoReturn:
    warn(message)
    raise SystemExit(2)
