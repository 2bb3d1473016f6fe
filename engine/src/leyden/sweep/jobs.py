"""The jobs of a sweep: their composition, directory names, and recorded failures."""

import dataclasses
import functools
import hashlib
import json
import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from leyden.base.table import short_names
from leyden.base.terminal import short_override
from leyden.config.checks import TrainConfig
from leyden.config.hydra import chosen_options
from leyden.queue import Work
from leyden.queue.here import is_of_one_process
from leyden.run.directory import Run
from leyden.run.files import read_json
from leyden.run.identity import RunIdentity, is_launch_option, key_of
from leyden.sweep.work import command_of_job, run_job


class Composer:
    """Composer of jobs' configurations, which takes a few milliseconds for each; Hydra takes 0.1 s.

    A composition is reused for all jobs with the same choices of files; only their values are set
    anew.

    Args:
        loader: Hydra's config loader.
        config: The sweep's configuration, including the node `hydra`.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader = loader
        self.config = config
        self.is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))
        # Pickled, by the overrides that choose files.
        self.composed: dict[tuple[str, ...], bytes] = {}
        self.parse = functools.cache(OverridesParser.create(config_loader=loader).parse_override)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the same configuration as Hydra's `load_sweep_config`.

        Raises:
            HydraException: An override is wrong.
        """
        values: list[Override] = []
        others: list[Override] = []
        for text in overrides:
            override = self.parse(text)
            part = values if self._sets_value(override) else others
            part.append(override)
        keys = [override.key_or_group for override in values]
        for override in others:
            deletes_value = override.is_delete() and override.key_or_group in keys
            if override.is_hydra_override() or deletes_value:
                return self._by_hydra(overrides)
        groups = tuple(str(override.input_line) for override in others)
        try:
            composed = self._with_groups(groups)
            for override in values:
                _set_value(composed, override)
        except (HydraException, OmegaConfBaseException):
            return self._by_hydra(overrides)  # raises an error with the full message
        with open_dict(composed.hydra):
            composed.hydra.overrides.task = list(overrides)
            # The name of a job's directory is its `slug`.
            composed.hydra.job.override_dirname = "???"
        return composed

    def _with_groups(self, groups: tuple[str, ...]) -> DictConfig:
        """Return a new configuration of the files that these overrides choose."""
        if groups not in self.composed:
            composed = self._by_hydra(groups)
            if OmegaConf.select(self.config, "sweep.settings"):
                # Those of all jobs, of which each has its own as overrides.
                composed.sweep.settings = None
            self.composed[groups] = pickle.dumps(composed)
        found: DictConfig = pickle.loads(self.composed[groups])
        return found

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        composed: DictConfig = self.loader.load_sweep_config(self.config, list(overrides))
        return composed

    def _sets_value(self, override: Override) -> bool:
        """Return whether an override sets a value, and neither chooses a file nor deletes."""
        if override.is_delete() or override.is_hydra_override() or override.package is not None:
            return False
        return isinstance(override.value(), dict) or not self.is_group(override.key_or_group)


def _set_value(config: DictConfig, override: Override) -> None:
    """Set a value in a composed configuration, by Hydra's rule.

    Raises:
        OmegaConfBaseException: There is no such key, or the value has the wrong type.
        HydraException: The key to be added is there already.
    """
    key = override.key_or_group
    value = override.value()
    has_key = OmegaConf.select(config, key, throw_on_missing=False) is not None
    if override.is_add() and has_key and not isinstance(value, dict | list):
        raise HydraException(f"{key} is there already")
    adds = override.is_add() or override.is_force_add()
    OmegaConf.update(config, key, value, force_add=adds)


def sweep_directory(config: DictConfig) -> Path:
    """Return the directory of a sweep, by its configuration."""
    return Path(config.outputs, "sweeps", config.sweep_name).absolute()


MAX_LENGTH = 60  # of a job's name
ROOT_KEYS = tuple(each.name for each in dataclasses.fields(TrainConfig))
# An override whose value is a word or a number.
PLAIN_TEXT = re.compile(r"\+{0,2}[\w.]+=[\w.+]+?(e-\d+)?", re.ASCII)


@dataclass(frozen=True)
class JobNames:
    """Names of a sweep's jobs: by what varies, with keys as short as tells them apart.

    They are kept in `sweep.json`, so that a sweep that is continued with further values finds its
    runs.

    Args:
        shared: The overrides that all jobs have.
        short: Short names of the keys that vary.
    """

    shared: Sequence[str] = field(default_factory=list)
    short: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, shared: Sequence[str], keys: Collection[str]) -> "JobNames":
        """Return the names of a sweep over some keys.

        Without keys, each override is in the names.
        """
        paths = {key: key.replace("/", ".") for key in keys if re.fullmatch(r"[\w./]+", key)}
        short = short_names([*paths.values()], taken=ROOT_KEYS)
        shorter = {}
        for key, path in paths.items():
            if short[path] != path:
                shorter[key] = short[path]
        left_out: list[str] = []
        if keys:
            left_out = _identifying_overrides(shared)
        return cls(left_out, shorter)

    @classmethod
    def read(cls, directory: Path) -> "JobNames | None":
        """Return the names in the `sweep.json` of a directory; None if there are none."""
        match read_json(directory / "sweep.json", {}):
            case {"names": {"shared": list(shared), "short": dict(short)}}:
                return cls(shared, short)
        return None

    def name(self, overrides: Sequence[str]) -> str:
        """Return a readable directory name for a job's overrides, independent of their order.

        Launch options, such as the choice of the cluster, are left out. The name has no `=`, which
        would break Hydra's parser. A short hash is added if the name is too long or shortened,
        holds more than words and numbers, or lacks a shared override: so no two jobs share a name.

        Args:
            overrides: The job's overrides, as given by the user.

        Example:
            >>> JobNames.of([], ["optimizer.lr", "seed"]).name(["seed=1", "optimizer.lr=0.01"])
            'lr-0.01_seed-1'
            >>> JobNames().name(["model.hidden_sizes=[512,256]"])
            'model.hidden_sizes-512-256-36fa7c70'
            >>> JobNames().name(["optimizer.lr=0.0016571640914381709"])  # the hash is of all digits
            'optimizer.lr-0.001657-aed5ee4e'
        """
        identifying = _identifying_overrides(overrides)
        kept = [each for each in identifying if each not in self.shared]
        parts = [self._with_short_key(short_override(each)) for each in kept]
        words = re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(parts))
        name = words.replace("-_", "_").strip("-") or "defaults"
        if len(name) <= MAX_LENGTH and self._is_unambiguous(identifying, kept, parts):
            return name
        digest = hashlib.sha256(json.dumps(identifying).encode()).hexdigest()[:8]
        return f"{name[: MAX_LENGTH - len(digest) - 1]}-{digest}"

    def _is_unambiguous(self, identifying: list[str], kept: list[str], parts: list[str]) -> bool:
        """Return whether no other job can have these parts of a name."""
        if len(identifying) - len(kept) != len(self.shared):
            return False
        for each, part in zip(kept, parts, strict=True):
            is_whole = self._with_short_key(each) == part
            if not is_whole or not PLAIN_TEXT.fullmatch(part):
                return False
        keys = {key_of(each) for each in kept}
        return keys.isdisjoint(self.short.values())

    def _with_short_key(self, override: str) -> str:
        """Return an override with the short name of its key; a key with a prefix keeps it."""
        key = key_of(override)
        prefix, _, rest = override.partition(key)
        return f"{prefix}{self.short.get(key, key)}{rest}"


def _identifying_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides without launch options, sorted by key.

    Those of one key keep their order.
    """
    kept = []
    for override in overrides:
        if not is_launch_option(key_of(override)):
            kept.append(override)
    return sorted(kept, key=key_of)


@dataclass
class Job:
    """A job of a sweep.

    Its configuration is composed on each use, as thousands would fill the memory.

    Args:
        composer: Composes the configuration.
        number: The job's number within the sweep.
        arguments: The overrides to compose with, including those of Hydra's own keys.
        overrides: The overrides without those of Hydra's own keys.
        run: The run directory.
        log: The file with the job's output.
        identified: The settings of a job that is about to start, for its `call`; None otherwise.
    """

    composer: Composer
    number: int
    arguments: Sequence[str]
    overrides: list[str]
    run: Run
    log: Path
    identified: RunIdentity | None = None

    def compose(self) -> DictConfig:
        """Return the configuration, including the node `hydra`.

        Raises:
            HydraException: An override is wrong.
        """
        composed = self.composer.compose(self.arguments)
        with open_dict(composed):
            composed.hydra.job.id = str(self.number)
            composed.hydra.job.num = self.number
        return composed

    def identity(self) -> RunIdentity:
        """Return the settings that identify the job's run.

        Raises:
            UserError: The configuration is wrong.
        """
        config = self.compose()
        groups = chosen_options(config.hydra)
        with open_dict(config):
            del config["hydra"]
        return RunIdentity.of(config, self.overrides, self.run.directory, groups)

    def work(self, module: str, *, on_node: bool = False, is_each_started: bool = False) -> Work:
        """Return what a process of the job calls, with all values resolved.

        Another process could resolve them differently.

        Args:
            module: Name of the module whose `main.task` runs the job.
            on_node: Whether the configuration is for a node of a cluster.
            is_each_started: Whether each process of the job is started, not only the first one.
        """
        config = self.compose()
        identity = self.identified or self.identity()
        self.identified = None
        with open_dict(config):
            config.update(identity.config)
        if on_node and "download" in config.data:
            # A node may have no network; the data set was downloaded before.
            config.data.download = False
        if on_node and config.resume != "changed":
            config.resume = "auto"  # a requeued job must resume in its own directory
        is_alone = is_each_started or is_of_one_process(config.trainer)
        function = run_job if is_alone else command_of_job
        return Work(function, (module, config, identity, self.overrides), identity, self.log)
