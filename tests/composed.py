"""Commands in this process, composed as the jobs of a sweep are: Hydra reads what is in `conf/` twice for each command."""

import functools
from pathlib import Path

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from leyden import train  # noqa: F401 - its resolver
from leyden.config.hydra import composing
from leyden.sweep.jobs import Composer

MODE = "hydra.mode=RUN"


class Loader(ConfigLoaderImpl):
    """Hydra's own, whatever a test has put into its place."""

    load_configuration = ConfigLoaderImpl.load_configuration


@functools.cache
def composer(verb, search_path):
    loader = Loader(search_path.path)
    return Composer(loader, loader.load_configuration(verb, [], RunMode.RUN))


class SearchPath:
    """Where Hydra looks for files, as what can be compared."""

    def __init__(self, path):
        self.path = path
        self.words = tuple((each.provider, each.path) for each in path.get_path())

    def __eq__(self, other):
        return self.words == other.words

    def __hash__(self):
        return hash(self.words)


def quickly(self, config_name, overrides, run_mode, validate_sweep_overrides):
    """The configuration; None of what is left to Hydra: what is its own, a sweep, and a mistake, whose message is Hydra's."""
    # Hydra's command line types the mode, once it has asked for it.
    of_command = [MODE] if overrides[-1:] == [MODE] else []
    overrides = overrides[: len(overrides) - len(of_command)]
    try:
        composes = composer(config_name, SearchPath(self.config_search_path))
        parsed = [composes.parse(text) for text in overrides]
        if any(override.is_hydra_override() for override in parsed):
            return None
        if not validate_sweep_overrides:  # Hydra asks for `hydra.mode` alone
            return composes.config
        if run_mode == RunMode.MULTIRUN or any(override.is_sweep_override() for override in parsed):
            return None
        config = composes.compose(overrides)
    except Exception:
        return None
    with open_dict(config.hydra):
        if of_command:
            config.hydra.mode = RunMode.RUN
            config.hydra.overrides.hydra = [*config.hydra.overrides.hydra, MODE]
        config.hydra.runtime.cwd = str(Path.cwd())
        config.hydra.job.name = JobRuntime.instance().get("name")  # that of this command
    OmegaConf.clear_cache(config)  # the time in a name is that of this command
    return config


def load_configuration(self, config_name, overrides, run_mode, from_shell=True, validate_sweep_overrides=True):
    """The same as Hydra's."""
    config = quickly(self, config_name, overrides, run_mode, validate_sweep_overrides)
    if config is None:
        return Loader.load_configuration(
            self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides
        )
    return config


def compose(*overrides):
    """What `hydra.compose` gives of a run, within milliseconds where the same files were chosen before."""
    with composing():
        config = load_configuration(GlobalHydra.instance().config_loader(), "train", list(overrides), RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    return config


# A traceback through it is one through Hydra, in which no code of a researcher is looked for.
load_configuration.__code__ = load_configuration.__code__.replace(co_filename=config_loader_impl.__file__)
