"""The files of jobs: a file of what each one calls, for its owner alone, and the script that a node runs."""

import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.base.paths import LIBRARY
from leyden.queue import REQUEUE_VARIABLE, Queue, Work
from leyden.run.owner import KEY, key
from leyden.run.process import COMMAND, JOB, write_call
from leyden.run.provenance import VARIABLES

CALL = re.compile(r"[0-9a-f]{12}_[0-9]+\.call", re.ASCII)  # name of a file of `write_call`
ENDING = ".requeue"  # of the name of the file that `REQUEUE_VARIABLE` has
NODE_FOLDER = f'"${{TMPDIR:-/tmp}}/leyden-$UID/${JOB}"'
OF_GPU = {
    False: ("gpu", "cuda"),
    True: ("auto", "cpu"),
}  # accelerators that a job refuses, with GPUs or without


def variables_of_user() -> dict[str, str]:
    """Return the variables that a job needs, whatever its site hands on: the user's key, and what can change bits."""
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
        """Remove the files of jobs that are not accepted; one that nevertheless starts ends at once."""
        for file in (self.script, *self.calls):
            file.unlink(missing_ok=True)


def remove_call(folder: Path, submission: Mapping[str, str]) -> None:
    """Remove the file of a job that has ended, as it has the user's key."""
    name = submission.get("call", "")
    if CALL.fullmatch(name):  # in a record that others may have written
        (folder / name).unlink(missing_ok=True)


def take_requeue(folder: Path, name: str) -> bool:
    """Return, once, whether an ended job has asked for a requeue that its script could not get.

    Args:
        folder: Folder of scripts and logs.
        name: The beginning of the file's name, up to the first dot.
    """
    is_plain = re.fullmatch(r"\w+", name, re.ASCII)
    asked = [*folder.glob(f"{name}.*{ENDING}")] if is_plain else []
    for file in asked:
        file.unlink(missing_ok=True)
    return bool(asked)


def check_cluster(cluster: DictConfig, file: str, *, are_own: bool) -> None:
    """Check that the keys of the node `cluster` have values of the types that `conf/cluster/FILE.yaml` has.

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
            kind = f"must be of the same kind as {default}, the default"
            raise UserError(f"cluster.{name}={value}: {kind}")


def check_accelerator(trainer: DictConfig, num_gpus: int, key: str) -> None:
    """Check that the trainer uses a GPU if its job has one; `auto` trains on the CPU if the GPU fails.

    Raises:
        UserError: It does not.
    """
    if trainer.accelerator in OF_GPU[bool(num_gpus)]:
        allowed = "gpu" if num_gpus else "cpu or auto"
        what = f"with cluster.{key}={num_gpus} must be {allowed}"
        raise UserError(f"trainer.accelerator={trainer.accelerator}: {what}")


class ScriptQueue(Queue):
    """A queue whose jobs are scripts."""

    @property
    def setup(self) -> list[str]:
        """Shell commands before Python."""
        return [
            # By default a part of what torch.compile keeps lies in the home folder, which all nodes share.
            f"LEYDEN_FOLDER={NODE_FOLDER}",
            'export TORCHINDUCTOR_CACHE_DIR="$LEYDEN_FOLDER/compiled" TRITON_CACHE_DIR="$LEYDEN_FOLDER/compiled/triton"',
            "stopped=",
            *self.cluster.setup,
            "set +e",
        ]

    def teardown(self, on_node: str, requeue: Sequence[str], files: str) -> list[str]:
        """Return the shell commands after Python, which end with its exit code.

        Args:
            on_node: What starts a command on each node.
            requeue: Commands that put the job back into the queue if it has asked for that; `$avoid` is a node.
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
