"""The command that Hydra configures, `train`: options, and explanations of mistakes."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.base.errors import UserError, as_line, is_told_by_its_message, require_project
from leyden.base.paths import choices
from leyden.base.terminal import one_line, quoted_override, warn
from leyden.config.hydra import (
    compose_command,
    composing,
    is_sweep,
    run_task,
    shown_config,
)
from leyden.run.process import is_main_process

# The keys of Hydra's that have an effect.
PARTITIONS = re.compile(r"^(cluster\.partition=)([\w.-]+(?:,[\w.-]+)+)$")  # not a sweep over them
OF_HYDRA = ("hydra.sweeper", "hydra.help", "hydra.searchpath")


def run_command(
    task: Callable[[DictConfig], Any], sweep: Callable[[DictConfig, str], None]
) -> None:
    """Run `task`, configured by `conf/train.yaml` and the command line; or `sweep`, with `-m`.

    Args:
        task: Function of the configuration.
        sweep: Function that runs a sweep, of its configuration and the name of the module whose
            `main.task` runs a job.

    Raises:
        UserError: The user made a mistake; errors of Hydra are explained.
    """
    if sys.platform == "win32" and is_main_process():
        warn(
            "on Windows a run can't save before it is terminated; it resumes from its last epoch; "
            "and there is no Slurm"
        )
    require_project()
    try:
        _run(_parse(sys.argv[1:]), task, sweep)
    except (HydraException, OmegaConfBaseException) as error:
        if not is_told_by_its_message(error):
            raise
        raise UserError(_explain(error)) from error


def _run(
    options: argparse.Namespace,
    task: Callable[[DictConfig], Any],
    sweep: Callable[[DictConfig, str], None],
) -> None:
    """Compose the configuration, and do what the options ask for."""
    with composing(options.config_dir, job_name=options.config_name):
        of_record = ["fork="]
        if not options.multirun:
            of_record.append("run_dir=")
        if any(each.lstrip("+").startswith(tuple(of_record)) for each in options.overrides):
            from leyden.run.fork import recorded_arguments  # late, as it imports much

            sys.argv[1:] = recorded_arguments(sys.argv[1:])
            options = _parse(sys.argv[1:])
        parsed = _check_overrides(options.overrides)
        try:
            mode = []
            if options.multirun:
                mode = ["hydra.mode=MULTIRUN"]
            cfg = compose_command(options.config_name, [*options.overrides, *mode])
        except UserError:
            raise
        except Exception as error:  # Hydra and OmegaConf raise various types
            raise UserError(_explain(error)) from error
        if options.help:
            print(cfg.hydra.help.template)
        elif options.cfg:
            print(shown_config(cfg, options.cfg, resolve=options.resolve), end="")
        elif is_sweep(cfg):
            sweep(cfg, _module(task))
        else:
            for each in parsed:
                if each.is_sweep_override():
                    why = (
                        "several values make a sweep, which needs -m; a text with a comma is quoted"
                    )
                    raise UserError(f"{each.input_line}: {why}")
            run_task(task, cfg)


def _module(task: Callable[..., Any]) -> str:
    """Return the name that a function's module is imported by, also run by `python -m`."""
    module = sys.modules[task.__module__]
    if module.__spec__:
        return module.__spec__.name
    return module.__name__


class _Parser(argparse.ArgumentParser):
    """Parser of options, whose mistakes are raised."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options and overrides of a command line.

    Options may stand anywhere among overrides.

    Raises:
        UserError: An argument is refused.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--config-name", "-cn", default="train")
    parser.add_argument("--config-dir", "-cd", type=Path)
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        raise UserError(
            f"{unknown[0]}: no such option; a key has no dashes, and --help lists the options"
        )
    if options.config_dir and not options.config_dir.is_dir():
        raise UserError(f"--config-dir {options.config_dir}: there is no such folder")
    # Lightning starts the other ranks with overrides of its own.
    options.overrides = [PARTITIONS.sub(r"\1[\2]", text) for text in options.overrides]
    overrides = []
    if is_main_process():
        overrides = options.overrides
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key.startswith("hydra.") and not key.startswith(OF_HYDRA):
            raise UserError(
                f"{key}: has no effect in Leyden; run_dir, sweep_name and outputs name the "
                "folders, and -m makes a sweep"
            )
        if not options.multirun and key in ("sweep.seeds", "sweep.settings", "sweep.space"):
            raise UserError(f"{text}: is for a sweep, which needs -m")
    return options


def _check_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse the overrides of a command line.

    Raises:
        UserError: An override is refused.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign and text[:1] != "~":
            raise UserError(f"{one_line(text)}: must be key=value")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"{text}: holds bytes that are not UTF-8; rename the file or folder")
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            why = str(error).splitlines()[0]
            if value[:1] not in ("[", "{"):
                why += f"; a text is quoted as {quoted_override(key, value)}"
            raise UserError(f"{one_line(text)}: {why}") from error
        is_number = not override.is_sweep_override() and isinstance(override.value(), int | float)
        names = []
        if is_number:
            names = _choices(override.key_or_group)
        if names:
            raise UserError(f"{text}: no such choice; there are {', '.join(names)}")
        parsed.append(override)
    return parsed


def _explain(error: Exception) -> str:
    """Return an explanation of an error of Hydra or OmegaConf, in one or two lines."""
    text = str(error).strip()
    cause = error.__cause__
    first = text.splitlines()[0] if text else type(error).__name__
    why = ""
    if cause and str(cause):
        why = str(cause).splitlines()[0]
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if name and error.options is not None:
            return f"{group}={name}: no such choice{_sources(group)}"
    # The class of these two is that of all errors of composition, and only their texts name the
    # override.
    unknown = re.search(r"Could not override '(.+)'", text)
    if unknown:
        # Perhaps a key inside a value that is a mapping.
        key = getattr(cause, "full_key", None) or unknown[1]
        return f"{key}: no such key{_nearest(key, _known_keys(cause))}"
    unmerged = re.search(r"Error merging override (.+)", text)
    if unmerged:
        return f"{unmerged[1]}: {why}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {first}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        if why:
            return f"{first} ({why})"
        return first
    return as_line(error)


def _choices(group: str) -> list[str]:
    """Return the names of a config group's files; empty if there is no such group."""
    if not re.fullmatch(r"\w+(/\w+)*", group):  # a pattern, or another folder
        return []
    own, library = choices(group)
    return [*own, *library]


def _sources(group: str) -> str:
    """Return the choices of a config group in words, with the folder that each one comes from.

    Empty without any.
    """
    if ".." in group:
        return ""
    own, library = choices(group.lstrip("+~"))
    found = []
    if own:
        found.append(f"{', '.join(own)} (in conf/)")
    if library:
        found.append(f"{', '.join(library)} (the library's)")
    if found:
        return f"; there are {' and '.join(found)}"
    return ""


def _known_keys(cause: BaseException | None) -> list[str]:
    """Return the dotted keys of the configuration in which OmegaConf did not find a key."""
    node = getattr(cause, "parent_node", None)
    if node is None:
        return []
    # OmegaConf has no public way from a node to its root.
    root: Any = OmegaConf.to_container(node._get_root())
    if not str(getattr(cause, "full_key", "")).startswith("hydra."):
        del root["hydra"]
    return [*_keys(root)]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all nodes, inner nodes included."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _nearest(key: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown key: a suggestion, and the keys beside it."""
    parent = key.rpartition(".")[0]
    names = [name for name in known if not name.endswith("_")]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings, 1)
    close += [name for name in names if name.endswith(f".{key}")]  # optimizer.lr for lr
    close += difflib.get_close_matches(key, names, 1)
    remarks = []
    if close:
        remarks.append(f"did you mean {close[0]}?")
    if f"{parent}._target_" in known:  # whose class may take more
        remarks.append(f"+{key}=... adds one")
    found = ""
    if remarks:
        found = f"; {' '.join(remarks)}"
    if siblings:
        beside = ", ".join(name.rpartition(".")[2] for name in siblings)
        found += f"\n{parent or 'the root'} has {beside}"
    return found
