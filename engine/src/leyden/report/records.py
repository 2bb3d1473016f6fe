"""Records of the runs below a folder, with status and result.

Test evaluations, and what the test set forbids.
"""

import contextlib
import difflib
import functools
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from leyden import queue
from leyden.base.errors import UserError
from leyden.base.terminal import one_line, some_of, warn
from leyden.config.checks import Objective, objective_of
from leyden.config.values import text_of
from leyden.run.curves import read_points
from leyden.run.directory import Run
from leyden.run.files import appending, read_rows
from leyden.run.identity import typed_overrides
from leyden.run.lock import is_held
from leyden.run.provenance import now
from leyden.run.record import read_summary
from leyden.run.result import Result
from leyden.verdict.numbers import is_finite, metric_text

TEST_EVALUATIONS_FILE = "test_evaluations.csv"
EVALUATIONS_HEADER = ("time", "experiment", "run", "checkpoint", "metrics")


def read_test_evaluations(outputs: Path) -> list[list[str]]:
    """Return the rows of the list in a folder, with the fields of `HEADER`.

    A damaged row may have fewer.

    Raises:
        OSError: The list can't be read.
    """
    return read_rows(outputs / TEST_EVALUATIONS_FILE)


def num_test_evaluations(rows: Sequence[Sequence[str]], experiment: str) -> int:
    """Return the number of test evaluations of an experiment."""
    return sum(row[1:2] == [one_line(experiment)] for row in rows)


def count_text(experiment: str, num: int) -> str:
    """Return the number of an experiment's test evaluations in words."""
    return f"Test evaluations so far: {experiment} {num}"


def check_test_evaluations(outputs: str) -> None:
    """Check, before a test evaluation, that it can be recorded.

    Raises:
        UserError: The list can't be written.
    """
    try:
        with appending(Path(outputs) / TEST_EVALUATIONS_FILE, EVALUATIONS_HEADER):
            pass
    except OSError as error:
        raise UserError(
            f"outputs={outputs}: {TEST_EVALUATIONS_FILE} can't be written there ({error.strerror})"
        ) from error


def record_test_evaluation(
    outputs: str, run: Run, checkpoint: str, metrics: dict[str, float], *, where: str | None = None
) -> int:
    """Append a test evaluation to the list in `outputs`.

    Args:
        outputs: Folder of the list.
        run: The evaluated run.
        checkpoint: Name of the checkpoint.
        metrics: The metrics.
        where: Text that names what was evaluated; None for the run directory.

    Returns:
        The number of the experiment's test evaluations, this one included.
    """
    name = run.config.get("name", "")
    with appending(Path(outputs) / TEST_EVALUATIONS_FILE, EVALUATIONS_HEADER) as (rows, append):
        append([now(), name, where or str(run.directory), checkpoint, json.dumps(metrics)])
    return 1 + num_test_evaluations(rows, name)


NOT_OF_OWNER = (
    "Nothing is written or counted here, since none of these runs is signed with your key."
)
DIGEST = "data.digest"  # key, in reports, of the digest of the training data's content
VALIDATED = "data.val_samples"  # the number of samples that the validation metrics are of


@dataclass
class Record:
    """A run as read for a report.

    Args:
        directory: Absolute path of the run directory; a path object for each of thousands is slow.
        typed: Overrides of the first start, by key.
        config: The resolved configuration, flat, with `DIGEST` and `VALIDATED`, if they were
            recorded. Runs share its values.
        status: Status of the result, or `diverged` if the objective is not finite; without a result
            `running`, `queued` or `interrupted`.
        objective: The objective with the run's value; None if the run has none.
        result: The result; None if the run has none.
        head: What is read of the starts, by the keys of `HEAD`.
        reason: Why the cluster's job of a queued run waits, unless it simply waits for its turn.
        choices: Values, by key, of the settings that any run of the report overrides, by
            `compare_configs`; keys that this run's configuration lacks are absent.
        varied: The part of the configuration in which the runs of the report differ, by
            `compare_configs`: thousands share most of their settings.
        groups: The chosen option of each config group, also of one that nobody typed.
    """

    directory: str
    typed: dict[str, str]
    config: Mapping[str, Any]
    status: str
    objective: Objective | None
    result: Result | None
    head: Mapping[str, Any]
    reason: str = ""
    choices: dict[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def run(self) -> Run:
        """The run directory."""
        return Run(self.directory)

    @property
    def epochs(self) -> int | None:
        """Number of completed epochs; None without a result."""
        if self.result:
            return self.result.epochs
        return None

    @property
    def threads(self) -> int | None:
        """Number of threads of a process of the last start that trained; None if unknown."""
        found: int | None = self.head["threads"]
        return found

    @property
    def seconds(self) -> float | None:
        """Training time in seconds; None if unknown."""
        if self.result:
            return self.result.seconds
        return None

    @property
    def started(self) -> float | None:
        """Time of the first start, in seconds since the epoch; None if unknown."""
        try:
            return datetime.fromisoformat(self.head["times"][0]).timestamp()
        except (
            LookupError,
            ValueError,
            OverflowError,
            OSError,
        ):  # of a year that the system's clock lacks
            return None

    @property
    def error(self) -> str:
        """The error of a failed run in one line; else empty."""
        error = None
        if self.result:
            error = self.result.error
        if error:
            return " ".join(f"{error.type}: {error.message} {error.where}".split())
        return ""

    @property
    def value(self) -> float | None:
        """The value of the objective; None if it is missing or not finite."""
        value = None
        if self.objective:
            value = self.objective.value
        if value is not None and is_finite(value):
            return value
        return None


def position(record: Record) -> str:
    """Return the last logged step of a run that has not ended, of how many, and its objective."""
    found = read_points(record.run.directory / "metrics.csv", last_bytes=2**16)
    if not found:
        return ""
    last = found[-1][0]
    metric = None
    if record.objective:
        metric = record.objective.metric
    reached = [(step, value) for step, name, value in found if name == metric]
    parts = [f"step {last}"]
    num_steps = _num_steps(record, [step for step, _ in reached])
    if num_steps and last < num_steps:
        parts[0] += f" of {num_steps}"
    if reached:
        parts.append(f"{metric} {metric_text(reached[-1][1])}")
    return ", ".join(parts)


def _num_steps(record: Record, validated: Sequence[int]) -> int | None:
    """Return about how many optimizer steps a run has; None if unknown.

    Args:
        record: The run.
        validated: The last steps at which it was validated, counted from 0: the last one of each
            epoch.
    """
    config = record.config
    most = config.get("trainer.max_steps")
    if isinstance(most, int) and most > 0:
        return most
    epochs = config.get("trainer.max_epochs")
    is_each_epoch = config.get("trainer.check_val_every_n_epoch", 1) == 1
    is_each_epoch &= config.get("trainer.val_check_interval") in (None, 1.0)
    if not validated or not is_each_epoch or not isinstance(epochs, int) or epochs < 1:
        return None
    before = -1
    if len(validated) > 1:
        before = validated[-2]
    return epochs * (validated[-1] - before)


def read_records(directory: Path) -> list[Record]:
    """Return the runs in or below a directory, by path, with comparable choices and objectives.

    Each run has a choice for every key that any of the runs overrides, if its configuration has the
    key. Runs whose objective differs from the first run's lose it.

    Raises:
        UserError: There is no run.
    """
    records = read_raw_records(directory)
    compare_configs(records)
    first = next((aim_of(record) for record in records if record.objective), None)
    for record in records:
        record.objective = record.objective if aim_of(record) == first else None
    return records


def compare_configs(records: Sequence[Record]) -> None:
    """Set each run's `varied`, and `choices`: its values of all keys that any run overrides.

    A group that a run has not typed has the option that a recipe or the defaults chose, if all runs
    recorded it. A value that was typed by other settings, as `init_from=parents/seed-${seed}`, is
    what was typed: these settings are compared, too.
    """
    typed_keys = dict.fromkeys(key for record in records for key in record.typed)
    varying = varying_keys([record.config for record in records])
    know_groups = all(record.groups for record in records)
    for record in records:
        config = record.config
        groups = record.groups if know_groups else {}
        made = _made_of_settings(record.typed)
        values = {**groups, **record.typed, **config, **made}
        record.choices = {key: values[key] for key in typed_keys if key in values}
        record.varied = {key: config[key] for key in varying if key in config and key not in made}


def _made_of_settings(typed: Mapping[str, str]) -> dict[str, str]:
    r"""Return the typed values that name other settings, as `${seed}`.

    Not those of resolvers, as `${oc.env:HOME}`.

    Example:
        >>> _made_of_settings({"init_from": r"a/seed-$\{seed\}", "name": "${oc.env:USER}"})
        {'init_from': 'a/seed-${seed}'}
    """
    found = {}
    for key, text in typed.items():
        if "$" not in text:
            continue
        plain = text.replace("\\{", "{").replace("\\}", "}")
        names = re.findall(r"\$\{([^}]*)", plain)
        if names and not any(":" in name for name in names):
            found[key] = plain
    return found


def are_own(records: Sequence[Record]) -> bool:
    """Return whether one of the runs of a folder is signed by this user, who may write to it."""
    for record in records:
        with contextlib.suppress(UserError):
            if (found := record.run.record) and found.is_own:
                return True
    return False


def varying_keys(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that have several values, or are missing in some mappings."""
    first: Mapping[str, Any] = choices[0] if choices else {}
    order = dict.fromkeys(first)
    varying: set[str] = set()
    for chosen in choices:
        if chosen.keys() != first.keys():
            order.update(dict.fromkeys(chosen))
            varying.update(chosen.keys() ^ first.keys())
        # Of thousands of runs most values are the very same object: a call for each takes seconds.
        others = [key for key, value in chosen.items() if value is not first.get(key)]
        for key in others:
            if key not in varying and not _is_same(chosen[key], first[key]):
                varying.add(key)
    return [key for key in order if key in varying]


def _is_same(value: Any, other: Any) -> bool:
    """Return whether two values have one text by `text_of`; equal scalars of one type have."""
    if type(value) is type(other) and not isinstance(value, list | dict) and value == other:
        return True
    return text_of(value) == text_of(other)


def read_raw_records(directory: Path) -> list[Record]:
    """Return the runs in or below a directory, sorted by path, without choices.

    Raises:
        UserError: There is no run.
    """
    records: list[Record] = []
    jobs: list[tuple[Record, dict[str, str]]] = []  # of runs without a result
    pending = [str(directory.absolute())]
    while pending:
        folder = pending.pop()
        try:
            record = read_one(folder)
            if record and record.result is None:
                jobs.append((record, record.run.submission))
        # The files are untrusted, so any of these can occur.
        except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            warn(f"skipped: {folder} can't be read ({why})")
            continue
        if record:
            records.append(record)
        else:
            # A folder can vanish, or be closed to this user. Links to folders are not followed.
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                pending += sorted(
                    (each.path for each in entries if each.is_dir(follow_symlinks=False)),
                    reverse=True,
                )
    if not records:
        raise UserError(_no_run(directory))
    states = queue.states([job for _, job in jobs if job])
    for record, job in jobs:
        record.status, record.reason = _status_without_result(record, job, states)
    return records


def _no_run(directory: Path) -> str:
    """Return the message on a folder without runs.

    Of one that is not there, with the folders beside it.
    """
    if directory.is_dir():
        return f"{directory}: there is no run in or below it"
    message = f"{directory}: there is no such folder"
    folder = directory.absolute().parent
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    close = difflib.get_close_matches(directory.name, names)
    ordered = dict.fromkeys([*close, *names])
    if ordered:
        message += f"; beside it are {some_of([*ordered])}"
    return message


def threads_remark(nums: Iterable[int | None]) -> list[str]:
    """Return a line if numbers of threads differ, as far as they are known; else none."""
    found = sorted(num for num in {*nums} if num is not None)
    if len(found) < 2:
        return []
    *first, last = map(str, found)
    text = f"{', '.join(first)} and {last} threads (OMP_NUM_THREADS)"
    return [f"Trained with {text}, so the last bits of equal settings can differ."]


def aim_of(record: Record) -> Objective | None:
    """Return a run's objective without its value."""
    return record.objective and replace(record.objective, value=None)


def read_one(directory: str) -> Record | None:
    """Return the record of a run, without a status if it has no result.

    None if the directory holds no record.

    Raises:
        UserError: A file is damaged. Untrusted content can raise other types as well.
    """
    read = read_summary(directory)
    if read is None:
        return None
    config = read.config
    result = read.result
    typed = typed_overrides(read.head["overrides"])
    digest = read.head["data"]
    if digest:
        config[DIGEST] = sys.intern(digest[:8])  # most values of runs are the very same object
    if result and result.val_samples is not None:
        config[VALIDATED] = result.val_samples
    aim = None
    if result:
        aim = result.objective
    if not aim and "objective" not in config:  # null, for a run without an objective
        aim = objective_of({key: config[f"objective.{key}"] for key in ("metric", "mode")})
    status = ""
    if result:
        status = _status_of_result(result)
    groups = read.head["groups"] or {}
    return Record(directory, typed, config, status, aim, result, read.head, groups=groups)


def _status_without_result(
    record: Record, job: dict[str, str], states: Mapping[str, queue.JobState]
) -> tuple[str, str]:
    """Return the status of a run without a result, and why its cluster's job waits, if it does."""
    if is_held(record.run.directory):
        return "running", ""
    with contextlib.suppress(UserError):
        again = read_summary(record.directory)
        if again and again.result:  # it has ended since its record was read
            return _status_of_result(again.result), ""
    if not job:
        return "interrupted", ""
    state = states.get(job["job_id"])
    if (
        state is None
    ):  # its scheduler does not answer; then a job counts as queued until it is started
        return ("queued" if record.head["job"] != job["job_id"] else "interrupted"), ""
    return ("interrupted" if state.phase == "ended" else state.phase), state.reason


def _status_of_result(result: Result) -> str:
    """Return the status of a run with a result.

    A complete run whose objective is NaN or infinite counts as diverged.
    """
    aim = result.objective
    is_lost = aim is not None and aim.value is not None and not is_finite(aim.value)
    if is_lost and result.is_complete:
        return "diverged"
    return result.status


def refuse_test_metrics(option: str, keys: Collection[str], records: Sequence[Record]) -> None:
    """Check that no run is selected by a metric of the test set.

    Args:
        option: Name of the option, for the error message.
        keys: Keys by which runs are selected or sorted.
        records: The runs; their results record which metrics are those of the test set.

    Raises:
        UserError: One of the keys is a metric of the test set.
    """
    chosen = sorted(metrics_of_test(records) & {*keys})
    if chosen:
        raise UserError(
            f"{option}: {chosen[0]} is a metric of the test set, by which nothing may be "
            "selected; choose one of validation, and then evaluate the best setting once "
            "by leyden evaluate"
        )


def metrics_of_test(records: Sequence[Record]) -> set[str]:
    """Return the metrics of the test set that runs have."""
    found: set[str] = set()
    for record in records:
        if record.result:
            found.update(record.result.stages.get("test", ()))
    return found


def evaluations_folder(directory: Path) -> Path | None:
    """Return the closest folder above a run that has a list of test evaluations.

    None without one.
    """
    for folder in directory.parents:
        if (folder / TEST_EVALUATIONS_FILE).exists():
            return folder
    return None


def test_set_remarks(runs: Collection[Record | Run]) -> list[str]:
    """Return how often the experiments of runs have been evaluated on the test set, in words.

    It is empty if that was never so.
    """
    names = dict.fromkeys(str(run.config.get("name")) for run in runs)
    places = {Path(run.directory).parent: Path(run.directory) for run in runs}
    folders = dict.fromkeys(map(evaluations_folder, places.values()))
    lines = []
    for folder in folders:
        if folder is None:
            continue
        path = folder / TEST_EVALUATIONS_FILE
        try:
            rows = read_test_evaluations(folder)
        except OSError as error:
            warn(f"{path} can't be read ({error.strerror})")
            continue
        nums = []
        for name in names:
            num = num_test_evaluations(rows, name)
            if num:
                nums.append(f"{name} {num}")
        if nums:
            lines.append(f"Test evaluations so far: {', '.join(nums)} ({path})")
    return lines
