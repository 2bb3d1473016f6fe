"""Hydra's command line and composition, as Leyden uses them."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra
import hydra._internal.utils

from leyden.config.paths import CONF

VERSION_BASE = "1.3"  # the defaults that Hydra is asked for


class _ArgumentParser(argparse.ArgumentParser):
    """Hydra's parser with two things that it lacks: options after and between overrides, and Python 3.14.

    That refuses a help that is no string, and Hydra gives it one that becomes a string when it is shown.
    """

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.get("help") is not None:
            settings["help"] = str(settings["help"])
        return super().add_argument(*names, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


# Hydra makes its parser itself, so this is what it finds under the name of the module.
hydra._internal.utils.argparse = SimpleNamespace(  # type: ignore[attr-defined, assignment]
    **{**vars(argparse), "ArgumentParser": _ArgumentParser}
)


def parse_options(argv: Sequence[str], refuse: Callable[[str], NoReturn]) -> None:
    """Look at Hydra's own options as Hydra will, but say what is wrong by `refuse`, where argparse would print all options."""
    parser = hydra._internal.utils.get_args_parser()  # there is no public one
    parser.error = refuse  # type: ignore[method-assign, assignment]
    parser.parse_intermixed_args(argv)


def in_conf() -> contextlib.AbstractContextManager[Any]:
    """Within it `hydra.compose("train")` composes what `conf/` holds."""
    return hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE)
