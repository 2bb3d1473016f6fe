"""The files of jobs: for its owner alone what each calls, and the script of a node."""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.base.paths import LIBRARY
from leyden.base.terminal import one_line
from leyden.queue import REQUEUE_VARIABLE, JobLike, Queue, Work
from leyden.run.owner import KEY, key
from leyden.run.process import COMMAND, JOB, write_call
from leyden.run.provenance import VARIABLES

CALL = re.compile(r"[0-9a-f]{12}_[0-9]+\.call", re.ASCII)  # name of a file of `write_call`
ENDING = ".requeue"  # of the name of the file that `REQUEUE_VARIABLE` has
# As `bootstrap` has it: a path of Python has no colon. A start that a lost node ends late does not
# remove the folder of the next one.
_RESTARTS = "${LEYDEN_RESTARTS:-${SLURM_RESTART_COUNT:-0}}"
NODE_FOLDER = f'"${{TMPDIR:-/tmp}}/leyden-$UID/${{{JOB}//:/_}}.{_RESTARTS}"'
ANSWER_S = 60.0  # for a command of the queue to end
MAX_OUTPUT = 2**26  # bytes that one may print
MAX_SAID = 500  # characters of them in a message
NO_ANSWER = "no answer"
COLOR = re.compile(r"\x1b\[[\d;]*m")
# Keys of `cluster` that are null, or a text.
TEXTS = ("submit", "id", "state", "cancel", "requeue", "notify", "python")
EARLY_S = 60  # before the time at which a queue is told to send a signal
OF_GPU = {
    False: ("gpu", "cuda"),
    True: ("auto", "cpu"),
}  # accelerators that a job refuses, with GPUs or without


def run_within(
    words: Sequence[str], timeout_s: float, given: str = ""
) -> tuple[str, str, int | None]:
    """Run a command that may hang, print without end, or leave processes that hold its output.

    Args:
        words: The command.
        timeout_s: Time after which it is killed.
        given: Its standard input.

    Returns:
        Its output, its messages, and its exit code; None if it was killed.
    """
    with (
        tempfile.TemporaryFile() as standard_input,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as error,
    ):
        standard_input.write(given.encode())
        standard_input.seek(0)
        process = subprocess.Popen(
            words, stdin=standard_input, stdout=out, stderr=error, start_new_session=True
        )
        try:
            code = _code_within(process, timeout_s, (out, error))
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _text(out), _text(error), code


def _code_within(process: Any, timeout_s: float, files: Sequence[Any]) -> int | None:
    """Return the exit code of a process; None if it runs too long, or writes too much."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code: int = process.wait(0.05)
            return code
        if sum(os.fstat(file.fileno()).st_size for file in files) > MAX_OUTPUT:
            break
    return None


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read(MAX_OUTPUT).decode(errors="replace")
    return text


def call(*words: str) -> tuple[str, str]:
    """Run a command of the queue.

    Return its output and an error message of one line, empty on success.
    """
    try:
        out, error, code = run_within(words, ANSWER_S)
    except (OSError, ValueError) as problem:
        return "", f"{NO_ANSWER} ({shown(problem)})"
    out = COLOR.sub("", out)
    if code is None:
        return "", f"{NO_ANSWER} within {ANSWER_S:.0f} s, or too long a one"
    if code:
        return out, f"{shown(error.strip() or out)} (exit code {code})"
    return out, ""


def shown(text: object) -> str:
    """Return what a command says as one short line."""
    return one_line(" ".join(str(text).split()))[-MAX_SAID:]


def variables_of_user() -> dict[str, str]:
    """Return the variables that a job needs: the user's key, and what can change bits."""
    names = ("PYTHONPATH", *VARIABLES)
    found = {name: os.environ[name] for name in names if name in os.environ}
    signing_key = key()
    if signing_key:  # a node may have another home directory
        found[KEY] = signing_key
    return found


class JobFiles:
    """Files of jobs that are submitted at once.

    Args:
        folder: Absolute path of the folder for scripts and logs.
        works: What the jobs call.
    """

    def __init__(self, folder: Path, works: Sequence[Work]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / secrets.token_hex(6)
        self.script = self.path.with_suffix(".sh")
        numbers = range(len(works))
        self.calls = [folder / f"{self.path.name}_{number}.call" for number in numbers]
        variables = variables_of_user()
        for file, work in zip(self.calls, works, strict=True):
            write_call(file, work.function, work.arguments, variables)

    def remove(self) -> None:
        """Remove the files of jobs that are not accepted.

        One that nevertheless starts ends at once.
        """
        for file in (self.script, *self.calls):
            file.unlink(missing_ok=True)


def remove_call(folder: Path, submission: Mapping[str, str]) -> None:
    """Remove the file of a job that has ended, as it has the user's key."""
    name = submission.get("call", "")
    if CALL.fullmatch(name):  # in a record that others may have written
        (folder / name).unlink(missing_ok=True)


def check_cluster(cluster: DictConfig, file: str, *, are_own: bool) -> None:
    """Check that the values of `cluster` are of the types in `conf/cluster/FILE.yaml`.

    Args:
        cluster: The node.
        file: The file's name.
        are_own: Whether the node may have further keys.

    Raises:
        UserError: A setting is wrong.
    """
    defaults = OmegaConf.load(LIBRARY / "conf" / "cluster" / f"{file}.yaml").cluster
    unknown = [str(key) for key in cluster if key not in defaults]
    if unknown and not are_own:  # in a YAML of a site
        allowed = ", ".join(map(str, defaults))
        raise UserError(f"cluster.{unknown[0]}: no such key; there are {allowed}")
    for name, default in defaults.items():
        value = cluster.get(name)
        is_null = name == "mem_gb" and value is None
        if default is not None and type(value) is not type(default) and not is_null:
            raise UserError(
                f"cluster.{name}={value}: must be of the same kind as {default}, the default"
            )
    for name in TEXTS:
        if not isinstance(cluster.get(name), str | None):
            raise UserError(f"cluster.{name}={cluster[name]}: must be a text")
    # Otherwise a job would save at its first step, and be requeued.
    if cluster.signal_delay_s > 60 * cluster.time_min - EARLY_S:
        raise UserError(
            f"cluster.signal_delay_s={cluster.signal_delay_s}: must be a minute less than "
            f"cluster.time_min={cluster.time_min}"
        )


def check_accelerator(trainer: DictConfig, num_gpus: int, key: str) -> None:
    """Check that the trainer uses a GPU if its job has one.

    `auto` trains on the CPU if the GPU fails.

    Raises:
        UserError: It does not.
    """
    if trainer.accelerator in OF_GPU[bool(num_gpus)]:
        allowed = "gpu" if num_gpus else "cpu or auto"
        raise UserError(
            f"trainer.accelerator={trainer.accelerator}: with cluster.{key}={num_gpus} must be "
            f"{allowed}"
        )


class ScriptQueue(Queue):
    """A queue whose jobs are scripts."""

    def check(self, jobs: Sequence[JobLike], num: int, python: str) -> bool:
        """Check the settings of the jobs.

        For `cluster.dry_run`, print the script and return False.
        """
        self.check_settings()
        for job in jobs:
            self.check_trainer(job.compose().trainer)
        if self.cluster.dry_run:
            print(self.script(min(num, self.several), python))
            return False
        for needs, program in self.programs.items():
            if shutil.which(program) is None:
                raise UserError(f"{needs}: {program} is not installed on this machine")
        return True

    @property
    def programs(self) -> dict[str, str]:
        """Programs that must be installed, by what needs them."""
        raise NotImplementedError

    def check_settings(self) -> None:
        """Check the keys of the node `cluster`.

        Raises:
            UserError: A setting is wrong.
        """
        raise NotImplementedError

    def check_trainer(self, trainer: DictConfig) -> None:
        """Check that the trainer uses the resources that a job requests.

        Raises:
            UserError: It uses others.
        """
        raise NotImplementedError

    def script(self, num_jobs: int, python: str, calls: str = "CALLS") -> str:
        """Return the script of a job, or of an array.

        Args:
            num_jobs: Number of jobs; more than one are an array.
            python: Shell command that starts Python on a node.
            calls: Path of the jobs' files of `write_call`, without their number and suffix.
        """
        raise NotImplementedError

    def has_asked(self, submission: Mapping[str, str]) -> bool:
        """Return, once, whether an ended job asked for a requeue that its script could not get."""
        name = submission.get("call", "")
        asked: list[Path] = []
        if CALL.fullmatch(name):  # in a record that others may have written
            asked = [*self.folder.glob(f"{Path(name).stem}.*{ENDING}")]
        for file in asked:
            file.unlink(missing_ok=True)
        return bool(asked)

    @property
    def setup(self) -> list[str]:
        """Shell commands before Python."""
        return [
            # By default a part of what torch.compile keeps lies in the home folder, which all nodes
            # share.
            f"LEYDEN_FOLDER={NODE_FOLDER}",
            'export TORCHINDUCTOR_CACHE_DIR="$LEYDEN_FOLDER/compiled"',
            'export TRITON_CACHE_DIR="$LEYDEN_FOLDER/compiled/triton"',
            "stopped=",
            *self.cluster.setup,
            "set +e",
        ]

    def teardown(self, on_node: str, requeue: Sequence[str], files: str) -> list[str]:
        """Return the shell commands after Python, which end with its exit code.

        Args:
            on_node: What starts a command on each node.
            requeue: Commands that put the job back into the queue if it has asked for that;
                `$avoid` is a node.
            files: The job's own files, as shell words: they have the key of its owner.
        """
        return [
            # `cluster.setup` may have set another TMPDIR.
            f'{on_node}rm -rf "$LEYDEN_FOLDER" {NODE_FOLDER}',
            f'if [ -e "${REQUEUE_VARIABLE}" ]; then',
            f'  avoid=$(cat "${REQUEUE_VARIABLE}"); rm -f "${REQUEUE_VARIABLE}"',
            *requeue,
            'elif [ -z "$stopped" ]; then',
            f"  rm -f {files}",
            "fi",
            "exit $code",
            "",
        ]


def line_of_process(python: str, call: str) -> str:
    """Return the shell command of a job's process.

    Args:
        python: Shell command that starts Python on a node.
        call: Shell word of the file of `write_call`.
    """
    return f"{python} -u -m {COMMAND} {call}"


def plain_value(node: Any) -> Any:
    """Return a node of the configuration as plain values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def quoted(path: str | Path) -> str:
    """Return a path as a shell word."""
    return shlex.quote(str(path))
