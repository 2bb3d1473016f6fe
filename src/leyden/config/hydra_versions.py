"""What differs between the versions of Hydra: 1.3.8, with OmegaConf 2.3, and 1.4, with 2.4."""

import argparse
import contextlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra
import hydra._internal.utils
from hydra._internal import config_loader_impl
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from leyden.config.paths import CONF

IS_1_3 = hydra.__version__.startswith("1.3.")
VERSION_BASE = {"version_base": "1.3"} if IS_1_3 else {}  # the defaults that Hydra is asked for; 1.4 has no others


class _ArgumentParser(argparse.ArgumentParser):
    """The parser of Hydra 1.3 with two things that 1.4 has: options after and between overrides, and Python 3.14.

    That refuses a help that is no string, and Hydra 1.3 gives it one that becomes a string when it is shown.
    """

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.get("help") is not None:
            settings["help"] = str(settings["help"])
        return super().add_argument(*names, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


if IS_1_3:
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
    return hydra.initialize_config_dir(str(CONF), **VERSION_BASE)


def register_resolver(name: str, resolver: Callable[..., Any]) -> None:
    """Make `${name:argument}` the value of `resolver(argument)`."""
    register: Any = OmegaConf.register_new_resolver if IS_1_3 else OmegaConf.register_resolver
    register(name, resolver, replace=True)


def instantiate(node: dict[str, Any], **settings: Any) -> Any:
    """Make what a node names.

    Whether it may name that is asked before, where the node comes from somebody else (`assembly/trust.py`). Hydra 1.4 wants to be told what may
    be made: what the node names, and whatever a function gives that it names, but for Python's own.

    Args:
        node: Plain values, with `_target_`.
        settings: Hydra's, as `_partial_=True`.
    """
    if not IS_1_3:
        named = {*_named(node)}
        if any(inspect.isroutine(_find(name)) for name in named):  # what it will give nobody can know
            packages = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
            named |= {f"{package}.*" for package in packages}
        settings["_execution_whitelist_"] = sorted(named)
    return hydra.utils.instantiate(node, _convert_="all", **settings)


def written(override: Override, text: str) -> str:
    """An override of a sweep with one of its values, as jobs get it: `~key` alone is `~key=null` to Hydra 1.3, and to 1.4 a null that is looked for."""
    is_bare = override.is_delete() and "=" not in str(override.input_line)
    name = override.get_key_element()
    return name if is_bare and not IS_1_3 else f"{name}={text}"


def name_directory(node: DictConfig, overrides: Sequence[Override]) -> None:
    """Set `hydra.job.override_dirname` for these overrides, as Hydra 1.3 does in what it has composed; 1.4 makes it by a resolver."""
    make: Any = getattr(config_loader_impl, "get_overrides_dirname", None)
    if make:
        job = node.job
        names = job.config.override_dirname
        job.override_dirname = make(
            overrides, kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
        )


def _find(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except Exception:  # there is no such thing, or its module does not run: Hydra says so
        return None


def _named(node: Any) -> Iterator[str]:
    """What a node names, and below it: as it is named, and by the module where it is defined, as Hydra asks for both."""
    if isinstance(node, dict):
        finds = str(node.get("_target_")).startswith("hydra.utils.get_")  # these look for what stands at `path`
        for key in ("_target_", "path") if finds else ("_target_",):
            if isinstance(name := node.get(key), str):
                yield name
                with contextlib.suppress(AttributeError):
                    found = _find(name)
                    yield f"{found.__module__}.{found.__qualname__}"
        node = list(node.values())
    for value in node if isinstance(node, list) else []:
        yield from _named(value)
