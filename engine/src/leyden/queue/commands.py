"""A queue of commands that a YAML in `conf/cluster/` names: submit, state, cancel.

No shell reads them. A field such as `{script}` stands for a value, and a list such as `{ids}` for
several words. In a word with spaces, which is a program for some shell, fields are quoted.
"""

import json
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden.base.errors import UserError
from leyden.base.terminal import one_line, warn
from leyden.queue import (
    REQUEUE_VARIABLE,
    RESTARTS_VARIABLE,
    JobState,
    RejectedError,
    Work,
)
from leyden.queue.script import (
    ENDING,
    JobFiles,
    ScriptQueue,
    call,
    check_accelerator,
    check_cluster,
    line_of_process,
    plain_value,
    quoted,
    shown,
)
from leyden.run.owner import is_own, signature
from leyden.run.process import JOB

ID_S = 120  # for the file with a job's id to be seen on its node
FIELD = re.compile(r"\{(\w+)\}")
# An id that no command takes for an option, nor a shell for anything else.
SAFE_ID = re.compile(r"\w[\w.:@\[\]-]{0,127}", re.ASCII)
# What comes before a job's id in an answer: an indentation, or a label as in `Job Id: 7` or
# `submission_id='x'`.
BEFORE_ID = r"(?:^([^\S\n]*)\W?|(\b\w*(?:[Ii]d|number)\W{1,3}))"
PHASES = {
    "queued": JobState("queued", "queued"),
    "running": JobState("running", "running"),
    "done": JobState("ended", "done", is_completed=True),
    "failed": JobState("ended", "failed"),
    "lost": JobState("ended", "lost", is_lost=True),
    "stuck": JobState("ended", "stuck", reason="it will never start"),
}
KNOWS_NONE = "gone"  # in place of a state: what the command says where it knows no such job
NOT_KNOWN = JobState("queued", "unknown")
VANISHED = JobState("ended", "GONE", is_completed=True)  # as many queues forget what has ended
GIVEN = ("submit", "id", "state", "cancel")
NOBODY_WAITS = "nobody waits for this job; the same command submits another one"
TIMEOUT = "timeout --foreground --preserve-status --signal=USR1"


def filled(command: str, fields: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with values in place of its fields.

    Example:
        >>> filled("qdel -v {ids}", {"ids": ["7", "8"]})
        ['qdel', '-v', '7', '8']
        >>> filled("ssh n1 'bash {script} &'", {"script": "my file; rm"})
        ['ssh', 'n1', "bash 'my file; rm' &"]
    """
    words: list[str] = []
    for word in shlex.split(command):
        whole = FIELD.fullmatch(word)
        value = fields.get(whole[1]) if whole else None
        if isinstance(value, list):
            words += map(str, value)
            continue
        is_program = any(map(str.isspace, word))

        def text(match: re.Match[str], is_program: bool = is_program) -> str:
            found = fields.get(match[1], match[0])
            values = found if isinstance(found, list) else [found]
            texts = [str(each) for each in values]
            return shlex.join(texts) if is_program else ",".join(texts)

        words.append(FIELD.sub(text, word))
    return words


def ask(
    command: Sequence[str], patterns: Mapping[str, str], ids: Iterable[str]
) -> tuple[dict[str, JobState], str]:
    """Return the state of each job, and why there is no answer; empty for an answer.

    Args:
        command: The words of the command, with the field `{ids}`.
        patterns: A pattern for each state, of which the first one counts that is found in what the
            command says of a job.
        ids: The jobs. One that the command does not name has ended.
    """
    ids = [job for job in ids if SAFE_ID.fullmatch(job)]
    if not ids:
        return {}, ""
    out, problem = call(*filled(shlex.join(command), {"ids": ids}))
    knows_none = patterns.get(KNOWS_NONE)
    if problem and not (knows_none and re.search(knows_none, problem)):
        return {}, problem
    longest_first = sorted(ids, key=len, reverse=True)
    names = "|".join(map(re.escape, longest_first))
    after_id = r"(?![\w.-]*\w)"
    found: dict[str, JobState] = {}
    for match in re.finditer(f"(?m){BEFORE_ID}({names}){after_id}", out):
        indent, label, job = match.groups()
        # The next job may be a stranger's.
        after = rf"^(?!{indent}[^\S\n])|^[^\S\n]*\d"
        if label:
            after = rf"(?<!\w){re.escape(label)}"
        end = re.compile(after, re.MULTILINE).search(out, match.end())
        said = out[match.start(3) : end.start() if end else None]
        found[job] = _state(said, patterns)
    if out.strip() and not found and not _is_known(out, patterns):
        return {}, f"it says {shown(out)!r}"
    return dict.fromkeys(ids, VANISHED) | found, ""


def _is_known(out: str, patterns: Mapping[str, str]) -> bool:
    """Return whether a command speaks of jobs, though of none that was asked for."""
    states = [_state(line.strip(), patterns) for line in out.splitlines()]
    return any(state is not NOT_KNOWN for state in states)


def _state(said: str, patterns: Mapping[str, str]) -> JobState:
    """Return the state of a job by what a command says of it."""
    for name, pattern in patterns.items():
        if name in PHASES and re.search(pattern, said):
            return PHASES[name]
    return NOT_KNOWN


def states(jobs: Sequence[Mapping[str, str]]) -> dict[str, JobState]:
    """Return the states of jobs by id.

    Of each its `job.json`, whose command is run only if this user has signed it.
    """
    ids = defaultdict(list)
    for job in jobs:
        command = job.get("ask", "")
        if is_own(command, job.get("signed", "")):
            ids[command].append(job["job_id"])
    found: dict[str, JobState] = {}
    for command, asked in ids.items():
        words, patterns = json.loads(command)
        answer, _ = ask(words, patterns, asked)
        found |= answer
    return found


class Commands(ScriptQueue):
    """A queue of commands, of which one takes one job."""

    def __init__(self, config: DictConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.known: set[str] = set()  # ids of jobs

    @property
    def patterns(self) -> dict[str, str]:
        """The pattern of each state; by default `ID STATE`, as a program of one's own prints it."""
        given: dict[str, str] = plain_value(self.cluster.states)
        return given or {name: rf"^\S+\s+{name}\b" for name in PHASES}

    @property
    def fields(self) -> dict[str, Any]:
        """Values by field: the keys of `cluster`, and what follows from them."""
        keys = plain_value(self.cluster)
        walltime = timedelta(minutes=keys["time_min"])
        hours, rest = divmod(int(walltime.total_seconds()), 3600)
        of_all = {"walltime": f"{hours:02}:{rest // 60:02}:00", "this_python": sys.executable}
        return {**keys, **of_all, "folder": str(self.folder)}

    @property
    def programs(self) -> dict[str, str]:
        """Programs that must be installed, by what needs them."""
        commands = {f"cluster.{key}": self.cluster[key] for key in ("submit", "state")}
        return {key: filled(command, self.fields)[0] for key, command in commands.items()}

    def check_settings(self) -> None:
        """Check the commands and the resources."""
        cluster = self.cluster
        check_cluster(cluster, "queue", are_own=True)
        self._check_commands()
        if cluster.nodes != 1:
            raise UserError(
                f"cluster.nodes={cluster.nodes}: must be 1, since nothing starts the processes of "
                "other nodes here; cluster=slurm does"
            )
        if cluster.notify and not cluster.wait:
            raise UserError("cluster.notify: nobody calls it with cluster.wait=false, but on Slurm")

    def check_trainer(self, trainer: DictConfig) -> None:
        """Check that the trainer uses the resources that a job requests."""
        check_accelerator(trainer, self.cluster.gpus, "gpus")

    def _check_commands(self) -> None:
        """Check what the YAML says of commands.

        Raises:
            UserError: A command or a pattern is missing or wrong.
        """
        of_job = ("name", "script", "log", "unique", "ids")
        known = {*self.fields, *of_job}
        for key in (*GIVEN, "requeue"):
            command = self.cluster[key]
            if key in GIVEN and not (command or "").strip():
                raise UserError(f"cluster.{key}: is needed, such as in conf/cluster/pbs.yaml")
            if key == "id" or not command:
                continue
            try:
                fields = FIELD.findall(" ".join(shlex.split(command)))
            except ValueError as error:
                raise UserError(f"cluster.{key}: {error}") from error
            for field in fields:
                if field not in known:
                    allowed = f"{', '.join(of_job)}, walltime, folder, this_python"
                    raise UserError(
                        f"cluster.{key}: no field {{{field}}}; there are {allowed}, and the keys "
                        "of cluster"
                    )
                if self.fields.get(field, "") is None:
                    raise UserError(f"cluster.{field}=null: cluster.{key} needs a value")
        if unknown := {*self.patterns} - {*PHASES, KNOWS_NONE}:
            allowed = ", ".join([*PHASES, KNOWS_NONE])
            raise UserError(f"cluster.states.{min(unknown)}: must be one of {allowed}")
        for key, pattern in {"id": self.cluster.id, **self.patterns}.items():
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise UserError(f"cluster: the pattern of {key}, {pattern}: {error}") from error

    def _fields_of(self, batch: Path, name: str) -> dict[str, Any]:
        """Return the fields of a job's own submission."""
        return {
            **self.fields,
            "name": re.sub(r"[^A-Za-z0-9_-]+", "-", f"leyden-{name}")[:60],
            "script": str(batch.with_suffix(".sh")),
            "log": str(batch.with_suffix(".out")),
            "unique": batch.name,
        }

    def submit(
        self, works: Sequence[Work], name: str, python: str, *, after: Sequence[str] = ()
    ) -> list[dict[str, str]]:
        """Submit a job, which waits on its node until its id stands in a file."""
        self._check_folder()
        batch = JobFiles(self.folder, works)
        batch.script.write_text(self.script(1, python, str(batch.path)))
        batch.script.chmod(0o755)
        fields = self._fields_of(batch.path, name)
        out, problem = call(*filled(self.cluster.submit, fields))
        found = re.search(self.cluster.id, out, re.MULTILINE)
        job = found[found.re.groups and 1] if found else ""
        if problem or not SAFE_ID.fullmatch(job) or job in self.known:
            batch.remove()
            why = problem or f"there is no id in what it says, {shown(out)!r}"
            if job in self.known:
                why = f"{job} in what it says is the id of another job"
            raise RejectedError(
                f"cluster.submit: {why}; a job that it has taken nevertheless ends at once"
            )
        self.known.add(job)
        with batch.path.with_suffix(".id").open("x") as file:
            file.write(f"{job}\n")
        command = filled(self.cluster.state, self.fields)
        asks = json.dumps([command, self.patterns])
        return [
            {
                "scheduler": "commands",
                "job_id": job,
                "log": str(batch.path.with_suffix(".log")),
                "call": batch.calls[0].name,
                "ask": asks,
                "signed": signature(asks),
            }
        ]

    def _check_folder(self) -> None:
        """Check that nobody else can change the scripts, which nodes run from the folder.

        Raises:
            UserError: It is a link, or others may write to it.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self.folder.is_symlink() or self.folder.stat().st_mode & 0o022:
            raise UserError(
                f"{self.folder}: nodes run the scripts in it; it must be a folder that you alone "
                "may write to (chmod go-w)"
            )

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty, with a line, if the queue does not answer."""
        self.known.update(ids)
        command = filled(self.cluster.state, self.fields)
        found, problem = ask(command, self.patterns, ids)
        unknown = [job for job, state in found.items() if state is NOT_KNOWN]
        if problem:
            warn(f"cluster.state: {problem}")
        elif unknown:
            warn(f"cluster.states: none is found in what is said of job {unknown[0]}")
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs."""
        safe = [job for job in ids if SAFE_ID.fullmatch(job)]
        if not safe:
            return
        fields = {**self.fields, "ids": safe}
        _, problem = call(*filled(self.cluster.cancel, fields))
        if problem:
            warn(f"cluster.cancel: {problem}")

    def script(self, num_jobs: int, python: str, calls: str = "CALLS") -> str:
        """Return the script of a job, which begins with the command that submits it."""
        cluster = self.cluster
        submits = filled(cluster.submit, self._fields_of(Path(calls), "NAME"))
        call = quoted(f"{calls}_0.call")
        file_of_id = quoted(f"{calls}.id")
        seconds = 60 * cluster.time_min - cluster.signal_delay_s
        command = line_of_process(python, call)
        return "\n".join(
            [
                "#!/bin/bash",
                f"# {one_line(shlex.join(submits))}",
                f"exec >>{quoted(f'{calls}.log')} 2>&1",
                # Python would take itself for a process of srun, on a Slurm behind other commands.
                'for name in "${!SLURM_@}"; do [ "$name" = SLURM_CONF ] || unset "$name"; done',
                f"for n in {{1..{ID_S}}}; do [ -s {file_of_id} ] && break; sleep 1; done",
                f"if [ ! -s {file_of_id} ]; then",
                f'  echo "leyden: error: {NOBODY_WAITS}"',
                f"  rm -f {call}",
                "  exit 1",
                "fi",
                f"export {JOB}=$(head -n 1 {file_of_id})",
                f"export {RESTARTS_VARIABLE}=$(($(wc -l <{file_of_id}) - 1))",
                f"echo >>{file_of_id}",
                f"export {REQUEUE_VARIABLE}={quoted(f'{calls}_0')}.${RESTARTS_VARIABLE}{ENDING}",
                f"export OMP_NUM_THREADS={cluster.cpus}",
                *self.setup,
                # As Slurm does: a signal before the time limit, at which the run saves.
                f"{TIMEOUT} {max(1, seconds)} {command} &",
                "pid=$!",
                "trap 'kill -USR1 $pid 2>/dev/null' USR1 USR2",
                "trap 'stopped=1; kill -TERM $pid 2>/dev/null' TERM",
                "wait $pid; code=$?",
                "while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done",
                *self.teardown("", self._requeue(), f"{call} {file_of_id}"),
            ]
        )

    def _requeue(self) -> list[str]:
        """Return the commands of a script that requeue its job, or ask the waiting command to."""
        again = f'  echo >"${REQUEUE_VARIABLE}"'
        if not self.cluster.requeue:
            return [again]
        mark = "LEYDEN-ID"
        words = filled(self.cluster.requeue, {**self.fields, "ids": [mark]})
        command = " ".join(f"'{_inside(word)}'" for word in words).replace(mark, f"'\"${JOB}\"'")
        return [f"  if ! {command}; then", again, "  fi"]


def _inside(word: str) -> str:
    """Return a word as it stands between single quotes."""
    return word.replace("'", "'\"'\"'")
