"""The jobs of a sweep."""

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, open_dict

from leyden.config.importing import importing
from leyden.config.mistakes import UserError
from leyden.report.hparams import write_hparams
from leyden.run.choices import Choices
from leyden.run.directory import Run
from leyden.run.result import Result
from leyden.sweep import failure
from leyden.sweep.compose import Composer
from leyden.sweep.slug import slug


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
    def choices(self) -> Choices:
        """What the job is asked to be.

        Raises:
            UserError: The configuration is wrong.
        """
        return Choices.of(self.task_config, self.config.hydra.runtime.choices, self.run.directory)


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


def shared(jobs: Sequence[Job]) -> set[str]:
    """The overrides that all of several jobs have."""
    first, *others = (job.overrides for job in jobs)
    return {*first}.intersection(*others) if others else set()


def record_failure(choices: Choices, overrides: list[str], error: str) -> None:
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
            result = Result.failed(choices.objectives, failure.parse(error))
            write_hparams(run, result)
            run.end(result)
