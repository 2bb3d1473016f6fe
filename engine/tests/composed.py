"""Configurations in this process, composed as the jobs of a sweep are: Hydra reads what is in `conf/` each time, for a command twice."""

import contextlib
import functools
from pathlib import Path

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from leyden.sweep.jobs import Composer


class Loader(ConfigLoaderImpl):
    """Hydra's own, whatever a test has put into its place."""

    load_configuration = ConfigLoaderImpl.load_configuration


class Quick(Composer):
    """A composer whose jobs may choose another sweeper, which Hydra 1.4 refuses."""

    def _by_hydra(self, overrides):
        given = [*self.config.hydra.overrides.hydra, *overrides]
        return self.loader.load_configuration(self.config.hydra.job.config_name, given, RunMode.RUN)


MADE = {}


def composer(verb, search_path, of_hydra=()):
    """Composes with these overrides of Hydra's own keys."""
    key = verb, of_hydra, *((each.provider, each.path) for each in search_path.get_path())
    if key not in MADE:
        loader = Loader(search_path)
        MADE[key] = Quick(loader, loader.load_configuration(verb, list(of_hydra), RunMode.MULTIRUN))
    return MADE[key]


def quickly(self, config_name, overrides, run_mode, validate_sweep_overrides):
    """The configuration; None of what is left to Hydra: mistakes, whose messages are Hydra's, and keys of a sweeper that is chosen, too."""
    search_path = self.config_search_path
    try:
        parsed = [composer(config_name, search_path).parse(text) for text in overrides]
        of_hydra = [override for override in parsed if override.is_hydra_override()]
        # A sweep is composed without what it tries.
        trying = [override for override in parsed if override.is_sweep_override()]
        if trying and (
            validate_sweep_overrides or any(each.is_hydra_override() for each in trying)
        ):
            return None
        composes = composer(
            config_name, search_path, tuple(override.input_line for override in of_hydra)
        )
        of_task = [override for override in parsed if override not in of_hydra]
        config = composes.compose(
            [override.input_line for override in of_task if override not in trying]
        )
    except Exception:
        return None
    with open_dict(config.hydra):
        config.hydra.overrides.task = [override.input_line for override in of_task]
        config.hydra.runtime.cwd = str(Path.cwd())
        config.hydra.job.name = JobRuntime.instance().get("name")  # that of this command
    OmegaConf.clear_cache(config)  # the time in a name is that of this command
    return config


def load_configuration(
    self, config_name, overrides, run_mode, from_shell=True, validate_sweep_overrides=True
):
    config = quickly(self, config_name, overrides, run_mode, validate_sweep_overrides)
    given = (config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
    return Loader.load_configuration(self, *given) if config is None else config


# A traceback through it is one through Hydra, in which no code of a researcher is looked for.
load_configuration.__code__ = load_configuration.__code__.replace(
    co_filename=config_loader_impl.__file__
)


@contextlib.contextmanager
def composing_by(load=load_configuration):
    """Within it Hydra composes by this function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", load)
        yield


by_hydra = functools.partial(composing_by, Loader.load_configuration)
