"""Commands that Hydra configures, and whose errors a person can read."""

import difflib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from leyden.config import CONF, UserError


def command(task: Callable[[DictConfig], Any]) -> Any:
    """Make `task` a Hydra command, configured by `conf/<task's module>.yaml`.

    A mistake of the user (Hydra's errors included) ends it with one or two lines on stderr and exit code 2;
    `HYDRA_FULL_ERROR=1` shows the traceback instead. A run directory that Hydra made and nobody used is removed.
    """
    name = Path(task.__code__.co_filename).stem

    def main() -> None:
        debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
        started = time.time()

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            _show_tracebacks(debug)
            try:
                return task(cfg)
            except (UserError, OmegaConfBaseException) as error:
                if debug:
                    raise
                _exit(str(error) if isinstance(error, UserError) else explain(error, name, sys.argv[1:]))
            finally:
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # in one process: more jobs follow
                    _show_tracebacks(True)
                _remove_empty(Path(HydraConfig.get().runtime.output_dir), started)

        # Hydra prints and swallows its errors unless it is told to raise them; a job's own are another matter.
        _show_tracebacks(True)
        try:
            hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(job)()
        except (UserError, HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            if debug:
                raise
            _exit(str(error) if isinstance(error, UserError) else explain(error, name, sys.argv[1:]))
        except KeyboardInterrupt:
            raise SystemExit("Interrupted.") from None
        finally:
            _show_tracebacks(debug)

    main.task = task  # type: ignore[attr-defined]  # for the workers of a sweep
    return main


def explain(error: Exception, config_name: str, argv: list[str]) -> str:
    """Say in one or two lines what Hydra found wrong with the overrides in `argv`."""
    text = str(error).strip()
    detail = str(error.__cause__).splitlines()[0] if error.__cause__ else ""
    if isinstance(error, MissingConfigException) and (
        found := re.search(r"Could not find '(.+)/(.+)'\n+Available options in '.+':\n((?:\t.+\n?)+)", text)
    ):
        group, name, options = found.groups()
        return f"{group}={name}: no such choice; there are {', '.join(options.split())}"
    if found := re.search(r"Could not override '(.+)'", text):
        key = found[1]
        others = [a for a in argv if "=" in a and not a.startswith("-") and not a.lstrip("+~").startswith(key)]
        return f"{key}: no such key{_nearest(key, _keys(_compose(config_name, others)))}"
    if found := re.search(r"Error merging override (.+)", text):
        return f"{found[1]}: {detail}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {text.splitlines()[0] if '=' in str(error.override) else 'must be key=value'}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=... must be given; --help lists the keys"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}: choose another place by run_dir=... or outputs=..."
    return text.splitlines()[0] + (f" ({detail})" if detail else "")


def _compose(config_name: str, overrides: list[str]) -> Any:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, overrides=overrides)
        except (HydraException, ValueError):  # another of the overrides is wrong, too
            cfg = hydra.compose(config_name)
    return OmegaConf.to_container(cfg)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _nearest(key: str, known: Iterator[str]) -> str:
    names = [name for name in known if not name.endswith("_")]
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent and name != key]
    same = [name for name in names if name.endswith(f".{key}")]  # lr for optimizer.lr
    close = difflib.get_close_matches(key, siblings, 1) or same or difflib.get_close_matches(key, names, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{meant}\n{parent or 'the root'} has {', '.join(name.rpartition('.')[2] for name in siblings)}"


def _remove_empty(directory: Path, started: float) -> None:
    """Remove a directory that is empty, and was not there before the program started."""
    if directory.is_dir() and not any(directory.iterdir()) and directory.stat().st_ctime >= started:
        directory.rmdir()


def _show_tracebacks(really: bool) -> None:
    os.environ.pop("HYDRA_FULL_ERROR", None)
    if really:
        os.environ["HYDRA_FULL_ERROR"] = "1"


def _exit(message: str) -> NoReturn:
    print(f"leyden: {message}", file=sys.stderr)
    raise SystemExit(2)
