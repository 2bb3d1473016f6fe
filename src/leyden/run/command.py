"""Commands that Hydra configures, and whose errors a person can read."""

import functools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig

from leyden.config.errors import UserError, cause_of, is_mistake
from leyden.config.explain import explain
from leyden.config.hydra import VERSION_BASE, parse_options
from leyden.config.paths import CONF
from leyden.config.terminal import printable, warn
from leyden.run.fork import inherit_groups
from leyden.run.process import is_main_process

# Hydra's options; argparse takes their beginnings, too.
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
# What is in the way of run directories, and what to type instead.
INSTEAD = {
    "hydra.run.dir": "run_dir names the run directory",
    "hydra.sweep.dir": "sweep_name names the sweep, outputs the folder of all",
    "hydra.sweep.subdir": "each job of a sweep has a directory of its own",
    "hydra.output_subdir": "the run directory has config.yaml and provenance.json",
    "hydra.job.chdir": "a relative path is relative to where the command is started",
}

# A sweep of several keys together, of which Hydra's grammar knows nothing.
ZIP = re.compile(r"\s*(shuffle\s*\(\s*)?zip\s*\(")


def hydra_command(task: Callable[[DictConfig], Any]) -> Any:
    """Make `task` a Hydra command, configured by `conf/<task's module>.yaml`.

    A mistake of the user (Hydra's errors included) ends it with one or two lines on stderr and exit code 2;
    `HYDRA_FULL_ERROR=1` shows the traceback instead. A bug in the user's code shows its traceback.
    """
    name = Path(task.__code__.co_filename).stem

    def main() -> None:
        debug = os.environ.get("HYDRA_FULL_ERROR") == "1"

        def end(error: Exception) -> None:
            if debug or sys.gettrace():  # a debugger wants the error itself
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
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # the launchers of a sweep run the task itself
                    refuse_launcher(HydraConfig.get().runtime.choices)
                return task(cfg)
            except Exception as error:
                end(error)
                raise

        try:
            if sys.platform == "win32" and name == "train" and is_main_process():
                warn(
                    "on Windows no run is told to save before it is ended: it goes on from its last epoch; and there is no Slurm"
                )
            if is_main_process():  # Lightning starts the others with arguments of its own
                _check_arguments(name, sys.argv[1:])
                sys.argv[1:] = map(_lowered, inherit_groups(sys.argv[1:]) if name == "train" else sys.argv[1:])
            # Hydra prints and swallows its errors unless it is told to raise them; a job's own are another matter.
            _show_tracebacks(True)
            hydra.main(config_path=str(CONF), config_name=name, version_base=VERSION_BASE)(job)()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would only disturb the end
            print("Interrupted.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None
        except Exception as error:
            end(error)
            raise
        finally:
            _show_tracebacks(debug)

    main.task = task  # type: ignore[attr-defined]  # for the workers of a sweep
    return main


def refuse_launcher(groups: Mapping[str, str]) -> NoReturn:
    """Refuse a launcher that is none of Leyden's.

    Args:
        groups: The choice of each group, as Hydra's `runtime.choices`.

    Raises:
        UserError: Says which launchers there are.
    """
    raise UserError(
        f"hydra/launcher={groups['hydra/launcher']}: must be local or slurm, whose jobs are runs that are checked and resumed; "
        "cluster=local or cluster=slurm chooses"
    )


def _check_arguments(name: str, argv: list[str]) -> None:
    """Refuse what Hydra would take, and Leyden can't honour.

    Raises:
        UserError: Names the argument, and what to type instead.
    """
    is_sweep = any(each == "-m" or (len(each) > 3 and "--multirun".startswith(each)) for each in argv)
    for argument in argv:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UserError(f"{argument}: holds bytes that are no UTF-8; give the file or folder another name")
        key, has_value, value = argument.partition("=")
        if (
            argument.startswith("-")
            and key not in SHORT_OPTIONS
            and not (argument.startswith("--") and any(option.startswith(key) for option in OPTIONS))
        ):
            bare = argument.lstrip("-")
            raise UserError(f"{argument}: no such option; a key is typed without dashes, as {bare or 'seed=1'}")
        if instead := INSTEAD.get(key.lstrip("+~")):
            raise UserError(f"{key}: can't be set: {instead}")
        if name != "train" and argument in ("-m", "--multirun"):
            raise UserError(f"{argument}: there is one run to {name}; sweeps are those of leyden.train")
        if not is_sweep and (ZIP.match(value) or key == "sweep.seeds"):
            raise UserError(f"{argument}: is for a sweep, which needs -m")
        if has_value and value == "{}" and not key.startswith("+"):
            raise UserError(
                f"{argument}: changes nothing; {key}=null or ~{key} takes it out, {key}.KEY=... sets a key"
            )

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; python -m leyden.{name} --hydra-help tells of the options")

    parse_options(argv, refuse)


def _lowered(argument: str) -> str:
    """A zip as the sweeper's own configuration, where Hydra takes any text."""
    name, _, value = argument.partition("=")
    if not ZIP.match(value) or name.startswith("-"):
        return argument
    if not name.isidentifier():
        raise UserError(f"{name}=zip(...): the name must be one word, as model_optimizer; it sets nothing itself")
    text = QuotedString(value.replace("${", "\\${"), Quote.single).with_quotes()  # each job interpolates for itself
    return f"++hydra.sweeper.params.{name}={text}"


def _show_tracebacks(really: bool) -> None:
    """Tell Hydra to raise errors instead of printing some and swallowing them; this variable is its only switch."""
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if really:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _exit(message: str) -> NoReturn:
    warn(message)
    raise SystemExit(2)
