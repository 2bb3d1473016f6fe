"""The jobs of a sweep: composed, named, and the text of a job's failure that goes from process to process."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from leyden.config.errors import UserError, is_mistake, last_frame
from leyden.config.schema import TrainConfig
from leyden.report.hparams import write_hparams
from leyden.run.directory import Run
from leyden.run.fork import parent_groups, parse_fork
from leyden.run.identity import RunIdentity, is_launch_option
from leyden.run.process import importing
from leyden.run.result import Failure, Result

AT = "\n    at "


def failure_text(error: BaseException) -> str:
    """The text of an exception; of a mistake in the configuration it names no place."""
    place = "" if is_mistake(error) else last_frame(error)
    return failure_as_text(Failure(type(error).__name__, str(error), place))


def failure_as_text(failure: Failure) -> str:
    r"""The text of what stands in `result.json`.

    Example:
        >>> failure_as_text(Failure("KeyError", "'hidden'", "mlp.py:12 in forward"))
        "KeyError: 'hidden'\n    at mlp.py:12 in forward"
    """
    return f"{failure.type}: {failure.message}" + (f"{AT}{failure.where}" if failure.where else "")


def parse_failure(text: str) -> Failure:
    """Type, message and place of a text, as above."""
    kind, _, rest = text.partition(": ")
    message, at, place = rest.rpartition(AT)
    return Failure(kind, message, place) if at else Failure(kind, rest)


class Composer:
    """Composes the configuration of a job in a few milliseconds, where Hydra needs a tenth of a second.

    Args:
        loader: Hydra's.
        config: Of the sweep, Hydra's part included.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.of_groups: dict[tuple[str, ...], DictConfig] = {}
        self.sets_value: dict[str, bool] = {}  # by key, as it is typed
        self.parse = functools.cache(OverridesParser.create(config_loader=loader).parse_override)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The same as Hydra's `load_sweep_config` gives.

        Raises:
            HydraException: As that does.
        """
        parsed = [self.parse(text) for text in overrides]
        values = [override for override in parsed if self._sets_value(override, overrides)]
        if any(override.is_hydra_override() for override in parsed):
            return self._by_hydra(overrides)
        groups = tuple(str(override.input_line) for override in parsed if override not in values)
        if groups not in self.of_groups:
            self.of_groups[groups] = self._by_hydra(groups)
        composed = self.of_groups[groups].copy()
        try:
            # Hydra has no public way to set values in what it has composed.
            ConfigLoaderImpl._apply_overrides_to_config(values, composed)
        except HydraException:
            return self._by_hydra(overrides)  # its message tells of the whole
        with open_dict(composed.hydra):
            composed.hydra.overrides.task = list(overrides)
            names = composed.hydra.job.config.override_dirname
            composed.hydra.job.override_dirname = get_overrides_dirname(
                parsed, kv_sep=names.kv_sep, item_sep=names.item_sep, exclude_keys=names.exclude_keys
            )
        return composed

    def _by_hydra(self, overrides: Sequence[str]) -> DictConfig:
        return self.loader.load_sweep_config(self.config, list(overrides))

    def _sets_value(self, override: Override, overrides: Sequence[str]) -> bool:
        """Whether an override sets a value, and chooses no file, as Hydra finds for its key among those of a job."""
        key = str(override.input_line).partition("=")[0]
        if key not in self.sets_value:
            found = self.loader.compute_defaults_list(
                self.config.hydra.job.config_name,
                [*self.config.hydra.overrides.hydra, *overrides],
                RunMode.RUN,
            )
            values = {str(each.input_line) for each in found.config_overrides}
            self.sets_value.update({text.partition("=")[0]: text in values for text in overrides})
        return self.sets_value[key]


MAX_LENGTH = 120
ROOT_KEYS = "|".join(field.name for field in dataclasses.fields(TrainConfig))
# Overrides of which a name tells all: what is written between them and in a list can be taken apart again.
BETWEEN = re.compile(rf"_(?=[+~]*(?:{ROOT_KEYS})(?!\w))")
NUMBERS = re.compile(r"[0-9.]+(?:-[0-9.]+)+")  # of a list; a text that looks like it gets a hash
PLAIN = re.compile(
    rf"\+{{0,2}}(?:{ROOT_KEYS})(?:\.\w+)*=(?:\[[0-9.]+(?:,[0-9.]+)+\]|(?!{NUMBERS.pattern}$)[\w.+-]+)", re.ASCII
)
HASH = re.compile(r"-[0-9a-f]{8}$")


def slug(overrides: Sequence[str]) -> str:
    """A job's overrides as a readable file name, the same in whatever order they were given.

    Overrides that steer a start, and the choice of the sweep or cluster itself, are left out. There is no `=` in
    it, which would break Hydra's parser. A short hash is added where the name is too long, or where it would not
    tell all: no two jobs share one.

    Args:
        overrides: As they were typed.

    Example:
        >>> slug(["seed=1", "optimizer.lr=0.01", "model.hidden_sizes=[512,256]"])
        'model.hidden_sizes-512-256_optimizer.lr-0.01_seed-1'
        >>> slug(["model.hidden_sizes=[512]"])  # without a hash it would be that of 512, which is no list
        'model.hidden_sizes-512-27faaab5'
    """
    kept = _kept(overrides)
    parts = [_of_class(each) for each in _of_fork(kept)]
    plain, shown = "_".join(kept), "_".join(parts)
    name = re.sub(r"=\[(.*?)\]", lambda found: "=" + found[1].replace(",", "-"), shown).replace("=", "-")
    clean = re.sub(r"[^A-Za-z0-9._+-]", "-", name) or "defaults"
    can_be_split = (BETWEEN.split(plain) if plain else []) == kept
    if len(clean) <= MAX_LENGTH:
        tells_all = (
            parts == kept
            and all(map(PLAIN.fullmatch, kept))
            and kept == sorted(kept)
            and len(BETWEEN.split(name)) == max(1, len(kept))
        )
        if tells_all and can_be_split and not HASH.search(clean):
            return clean
    told = plain if can_be_split else json.dumps(kept)
    return f"{clean[:MAX_LENGTH]}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _kept(overrides: Sequence[str]) -> list[str]:
    """Those that tell jobs apart, in one order; where a key comes twice the last one holds, and the order stays."""
    pairs = [(override.lstrip("+~").split("=")[0], override) for override in overrides]
    kept = [(key, override) for key, override in pairs if not is_launch_option(key)]
    if len({key for key, _ in kept}) == len(kept):
        return sorted(override for _, override in kept)
    return [override for _, override in sorted(kept, key=lambda pair: pair[0])]


def _of_class(override: str) -> str:
    """What a name shows of an override: of one that names a class, `task._target_=mine.gan.GAN`, its last word, `task=GAN`."""
    key, _, value = override.partition("=")
    above, _, last = key.rpartition(".")
    if last != "_target_" or not all(word.isidentifier() for word in value.split(".")):
        return override
    return f"{above}={value.rpartition('.')[2]}"


def _of_fork(kept: Sequence[str]) -> list[str]:
    """What a name says of a fork: the folder of its parent, and what that was not given; a hash tells the rest."""
    fork = next((each for each in kept if each.startswith("fork=")), None)
    if fork is None:
        return list(kept)
    text = fork.partition("=")[2].strip("\"'")
    with contextlib.suppress(UserError):
        inherited = parent_groups(parse_fork(text)[0])
        rest = [each for each in kept if each is not fork and each not in inherited]
        return [f"fork={Path(text).name}", *rest]
    return list(kept)


@dataclass
class Job:
    """A job of a sweep.

    Args:
        config: All of its configuration, Hydra's part included.
        overrides: What it was composed by.
        run: Its directory.
        log: What it prints.
    """

    config: DictConfig
    overrides: list[str]
    run: Run
    log: Path

    @property
    def number(self) -> int:
        """Which one of the sweep."""
        return int(self.config.hydra.job.num)

    @functools.cached_property
    def task_config(self) -> DictConfig:
        """A copy of the configuration without Hydra's part; once `choices` are known, with absolute paths."""
        cfg = self.config.copy()
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    @property
    def resolved_config(self) -> DictConfig:
        """The configuration with nothing left that another process, elsewhere or later, could resolve otherwise."""
        config = self.config.copy()
        with open_dict(config):
            config.update(self.choices.config)
            config.hydra.sweep.dir, config.hydra.sweep.subdir = (
                str(self.run.directory.parent),
                self.run.directory.name,
            )
        return config

    @property
    def config_on_node(self) -> DictConfig:
        """The same as it is to run on a node of a cluster."""
        config = self.resolved_config
        if "download" in config.data:
            config.data.download = False  # a node may have no network; the data set is here by now
        if config.sweep.pictures == "best":
            config.sweep.pictures = "all"  # when the sweep ends, nobody need be there who could draw
        config.resume = "auto"  # what it was has been looked at, and a requeued job finds its own directory
        return config

    @functools.cached_property
    def choices(self) -> RunIdentity:
        """What the job is asked to be.

        Raises:
            UserError: The configuration is wrong.
        """
        return RunIdentity.of(self.task_config, self.config.hydra.runtime.choices, self.run.directory)


def compose(composer: Composer, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """The job of each list of overrides; `first` is the number of the first one."""
    directory = Path(composer.config.hydra.sweep.dir).absolute()
    jobs = []
    for number, overrides in enumerate(batch, start=first):
        composed = composer.compose(overrides)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(number), number
        typed = list(composed.hydra.overrides.task)
        name = slug(typed)
        if composed.fork is not None:
            with importing():
                from leyden.assembly.inherited import inherit_settings
            inherit_settings(composed, typed, directory / name)
        jobs.append(Job(composed, typed, Run(directory / name), directory / "logs" / f"{name}.log"))
    return jobs


def shared_overrides(jobs: Sequence[Job]) -> set[str]:
    """The overrides that all of several jobs have."""
    first, *others = (job.overrides for job in jobs)
    return {*first}.intersection(*others) if others else set()


def record_failure(choices: RunIdentity, overrides: list[str], error: str) -> None:
    """Let the directory of a job that has failed say so, unless it has a result or is in use.

    Args:
        choices: Of the job.
        overrides: What the job was composed by.
        error: As `failure` has it.
    """
    run = Run(choices.config["run_dir"])
    with contextlib.suppress(UserError), run.locked(choices, resume="auto"):
        if run.result is None:
            if not (run.directory / "config.yaml").exists():
                run.begin(choices, overrides)
            result = Result.failed(choices.objectives, parse_failure(error))
            write_hparams(run, result)
            run.end(result)
