"""A sweep: the directory that its jobs share, checked, run, and summarized in the end.

Several seeds of one setting (`sweep.seeds`) are no settings of their own; a mean is over them and `sweep.average_over`.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, ListConfig, OmegaConf

from leyden.config.checks import require_choice
from leyden.config.errors import UserError, log_and_continue
from leyden.config.terminal import printable, quoted_override
from leyden.config.values import flatten
from leyden.report.summary import summarize
from leyden.run.command import refuse_launcher
from leyden.run.directory import Run
from leyden.run.files import read_json, refuse_links, write_whole
from leyden.run.identity import typed_overrides
from leyden.sweep import worker
from leyden.sweep.jobs import Composer, Job, compose, slug
from leyden.sweep.launcher import call_in_copy
from leyden.sweep.space import Space, check_few, ends
from leyden.sweep.status import StatusLine
from leyden.sweep.worker import draw_pictures


def claim_directory(directory: Path, identity: dict[str, Any], facts: dict[str, Any]) -> None:
    """Make a directory that of a sweep of this name and objective, and write down further facts about it.

    Raises:
        UserError: It is that of another one.
    """
    path = directory / "sweep.json"
    refuse_links(directory, directory / "logs", directory / "locks")  # submitit makes links in slurm/
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock"):  # of several starts at once the first one decides whose it is
            there = read_json(path, identity)
            if not isinstance(there, dict):
                raise UserError(f"{path}: is no description of a sweep; choose another sweep_name, or remove it")
            differences = [
                f"{key} {before} there, {here} here"
                for key, here in identity.items()
                if (before := there.get(key, "absent")) != here
            ]
            if differences:
                raise UserError(
                    f"{directory} holds another sweep: {'; '.join(differences)}; choose another sweep_name"
                )
            write_whole(path, json.dumps({**identity, **there, **facts}) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error


ALL = 30  # jobs, up to which each is built; of more, a part that has each value


def validate_jobs(jobs: Sequence[Job]) -> None:
    """Find what is wrong with jobs: of all, the values and the directory; of those that are to run, what is made of them.

    Raises:
        UserError: Names the job and the mistake.
    """
    names = [f"job {number} of {len(jobs)}, {job.run.directory.name}" for number, job in enumerate(jobs)]
    to_run = {}
    for name, job in zip(names, jobs, strict=True):
        try:
            job.run.accept(job.choices, job.choices.config["resume"])
            if not job.run.is_finished(job.choices):
                to_run[name] = job
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    chosen = covering_subset([typed_overrides(job.overrides) for job in to_run.values()])
    pairs = list(to_run.items())
    configs = [(pairs[n][0], OmegaConf.create(pairs[n][1].choices.config)) for n in chosen]
    if not configs:
        return
    if "torch" in sys.modules:
        worker.dry_build_jobs(configs)  # as `call` would, but here an error can be raised as it is
    elif mistake := call_in_copy(worker.dry_build_failure, configs):
        raise mistake


def covering_subset(settings: Sequence[dict[str, str]]) -> list[int]:
    """Which of several settings are checked for all: up to `ALL` of them, else so many that each value is in one.

    Of many numbers of a key their ends count; of what is no number, as networks and data sets, each pair that occurs, too.

    Example:
        >>> covering_subset([{"seed": str(seed)} for seed in range(200)])
        [0, 199]
    """
    if len(settings) <= ALL:
        return list(range(len(settings)))
    values = {
        key: list(dict.fromkeys(e[key] for e in settings if key in e)) for key in dict.fromkeys(chain(*settings))
    }
    counted = {(key, value) for key, texts in values.items() for value in ends(texts)}
    words = {key for key, texts in values.items() if not all(map(_is_number, texts))}
    chosen: list[int] = []
    seen: set[object] = set()
    for number, setting in enumerate(settings):
        named = [pair for pair in setting.items() if pair[0] in words]
        new = ({*setting.items()} & counted | {*combinations(sorted(named), 2)}) - seen
        if new:
            chosen.append(number)
            seen |= new
    return chosen


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def num_seeds(config: DictConfig, spaces: Iterable[Space]) -> int:
    """With how many seeds each setting of a sweep runs.

    Raises:
        UserError: It is no number of seeds, too many, or the seed is tried itself.
    """
    num = config.sweep.get("seeds")
    if type(num) is not int or num < 1:
        raise UserError(f"sweep.seeds={num}: must be a positive whole number")
    check_few(f"sweep.seeds={num}", num)
    keys = config.sweep.get("average_over")
    if num > 1 and isinstance(keys, ListConfig) and "seed" not in keys:
        raise UserError(f"sweep.seeds={num}: sweep.average_over={list(keys)} lacks seed, over which the mean is")
    if num > 1 and any("seed" in each.keys for space in spaces for each in space.free):
        raise UserError(f"sweep.seeds={num}: seed is tried itself; give one of the two")
    return num


def averaged_keys(config: DictConfig, job: Job) -> list[str]:
    """The keys that a mean is over.

    Args:
        config: Of the sweep.
        job: One of its jobs, which has the keys if somebody has typed them; of the default some data have no folds.

    Raises:
        UserError: They are no keys.
    """
    keys = config.sweep.average_over
    if not isinstance(keys, ListConfig) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"sweep.average_over={keys}: must be a list of keys, as [seed]")
    if any(override.startswith("sweep.average_over") for override in job.overrides):
        known = dict(flatten(job.choices.config))
        if unknown := [key for key in keys if key not in known]:
            raise UserError(f"sweep.average_over={list(keys)}: there is no {unknown[0]}")
    return list(keys)


def add_seeds(job: Job, num: int) -> list[list[str]]:
    """The overrides of a job's setting with each of the seeds that follow its own, so that there are `num`.

    The first one keeps the directory that it has without `sweep.seeds`.
    """
    setting = [override for override in job.overrides if override.lstrip("+").partition("=")[0] != "seed"]
    first = job.config.seed
    return [[*setting, f"seed={first + number}"] for number in range(1, num)]


@runtime_checkable
class JobRunner(Protocol):
    """A launcher, as a sweep needs it: it gets jobs that are composed.

    Args:
        waits: Whether it waits for the jobs to end.
        num_at_once: Number of jobs that run at once.
    """

    waits: bool
    num_at_once: int

    def check_jobs(self, jobs: Sequence[Job]) -> bool:
        """Check that the jobs can be run; False if that was all that is wanted."""

    def run_jobs(
        self,
        ask: Callable[[], Job | None],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, str], bool],
    ) -> None:
        """Run jobs, as `batch.run` does."""

    def close(self) -> None:
        """End the workers."""


class Sweep:
    """A sweep directory and the jobs that run in it by a launcher; a context that ends the launcher's workers.

    Args:
        loader: Composes the jobs' configurations.
        config: Of the sweep, Hydra's part included.
        launcher: Runs the jobs.

    Raises:
        UserError: The launcher is none of Leyden's.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, launcher: Any) -> None:
        if not isinstance(launcher, JobRunner):
            refuse_launcher(config.hydra.runtime.choices)
        self.config, self.launcher = config, launcher
        self.composer = Composer(loader, config)
        self.directory = Path(config.hydra.sweep.dir).absolute()
        self.num_jobs = 0
        self.ended: dict[Path, Job] = {}  # by their directories
        self.failures: dict[str, str] = {}
        self.status: StatusLine | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self.status:
            named = quoted_override("sweep_name", self.directory.name)
            print(f"{len(self.ended)} jobs have ended; the same command with {named} goes on", file=sys.stderr)
        self.launcher.close()

    def compose(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Jobs, one per list of overrides; `first` is the number of the first one."""
        return compose(self.composer, batch, first)

    def check(self, jobs: Sequence[Job], identity: Mapping[str, Any] | None = None, **facts: Any) -> bool:
        """Find mistakes in the jobs and take the directory; False if that was all that is wanted, by `dry_run`.

        Args:
            jobs: That are to run.
            identity: What makes this sweep another one, beside name and objective; None: a grid, these are all of its jobs.
            facts: To be written down about the sweep.

        Raises:
            UserError: A job is wrong, or the directory is that of another sweep.
        """
        if any(override.startswith("run_dir=") for override in jobs[0].overrides):
            raise UserError("run_dir: each job of a sweep has a directory of its own; sweep_name names the sweep")
        if (subdir := jobs[0].config.hydra.sweep.subdir) != slug(jobs[0].overrides):
            raise UserError(
                f"hydra.sweep.subdir={subdir}: can't be set, each job of a sweep has a directory of its own"
            )
        require_choice(self.config, "sweep.fail_fast", True, False)
        if self.config.sweep.fail_fast and not self.launcher.waits:
            raise UserError("sweep.fail_fast=true: with cluster.wait=false nobody is there to end the other jobs")
        config = jobs[0].choices.config
        facts["average_over"] = averaged_keys(self.config, jobs[0])
        validate_jobs(jobs)
        if config["dry_run"]:
            for number, job in enumerate(jobs):
                print(printable(f"{number}: {' '.join(job.overrides)}"))
            what = "would run" if identity is None else "are the ends of the space that would be searched"
            print(f"These {what}. dry_run=true: nothing was done.", file=sys.stderr)
            return False
        if not self.launcher.check_jobs(jobs):
            return False
        both = {"name": self.config.name, "objective": config["objective"]}
        claim_directory(self.directory, {**both, **(identity or {})}, facts)
        return True

    def run(
        self,
        ask: Callable[[], Job | None],
        *,
        total: int,
        num_before: int = 0,
        shared: Collection[str],
        at_once: int | None = None,
        ended: Callable[[Job, str], None] | None = None,
    ) -> None:
        """Run jobs, and remember which of them failed.

        Args:
            ask: Gives the next job when there is a place for it; None for none.
            total: How many there will be, those of earlier starts that are not asked for again included.
            num_before: How many of them there are of the latter.
            shared: Overrides that all of them have.
            at_once: How many at once; None: as the launcher has it.
            ended: Is told the error of each, empty for none.
        """

        def told(job: Job, error: str) -> bool:
            self.num_jobs += 1
            self.ended[job.run.directory] = job
            if error:
                self.failures[job.run.directory.name] = f"{error}\n    {job.log}"
            if ended:
                ended(job, error)
            return not (self.failures and self.config.sweep.fail_fast)

        self.status = StatusLine(total, shared, num_before)
        self.launcher.run_jobs(ask, self.status, at_once=at_once, ended=told)

    def expect_less(self, num: int) -> None:
        """Let the status line know of jobs that will not be needed."""
        if self.status:
            self.status.total -= num

    def conclude(self, find: Callable[[Path], Job | None] = lambda directory: None) -> None:
        """Write and print the summary, and draw the best.

        Args:
            find: Gives the job of a directory that has ended in an earlier start; None for none.

        Raises:
            UserError: Jobs have failed; it lists them with reason and log.
        """
        winners = []
        try:
            winners = summarize(self.directory)
        except UserError:
            if not self.failures:  # else they tell why there is nothing
                raise
        if self.config.sweep.pictures == "best":
            self._draw(winners, find)
        if self.failures:
            head = f"{len(self.failures)} of {self.num_jobs} jobs failed; the same command tries them again"
            head += ", and goes on with the others" * bool(self.config.sweep.fail_fast)
            raise UserError("\n".join([head, *(f"  {name}: {why}" for name, why in self.failures.items())]))

    def _draw(self, runs: Sequence[Run], find: Callable[[Path], Job | None]) -> None:
        """Draw the pictures of runs whose jobs have drawn none."""
        for run in runs:
            with log_and_continue(f"{run.directory.name}: the drawing of its pictures"):
                ended = (run.directory / "result.json").stat().st_mtime
                is_drawn = any(path.stat().st_mtime >= ended for path in run.directory.glob("*.png"))
                # As this sweep has made it: what stands in a directory decides nothing.
                job = None if is_drawn else self.ended.get(run.directory) or find(run.directory)
                if job is None:
                    continue
                print(f"drawing the best: {run.directory}")
                if error := call_in_copy(draw_pictures, job.resolved_config, log=job.log):
                    raise UserError(error)
