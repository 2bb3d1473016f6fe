"""A verb that is run as one job of a cluster: `leyden evaluate run=DIR cluster=slurm_gpu`."""

import functools
import importlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leyden.config.errors import Exit, UserError, ending, leave, require_project
from leyden.config.paths import ROOT
from leyden.config.terminal import printable
from leyden.exact.files import replacing
from leyden.run.identity import key_of
from leyden.run.record import KEY, key
from leyden.scheduler import slurm

POLL_S = 5.0  # between looks at the job; the scheduler is asked every sixth time


def or_as_job(verb: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Make a verb's `main` one that runs as a job of a cluster, if `cluster=` is among its arguments.

    Args:
        verb: Name of the verb.
    """

    def decorate(main: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(main)
        def start() -> None:
            if any(key_of(each) == "cluster" for each in sys.argv[1:]):
                with ending():
                    _run(verb, sys.argv[1:])
            else:
                main()

        return start

    return decorate


def _run(verb: str, arguments: Sequence[str]) -> None:
    """Submit a job that calls a verb, print its output when it has ended, and end with its exit code.

    Raises:
        UserError: The cluster is not Slurm, has other resources than a verb uses, or rejects the job.
    """
    import hydra  # late, as few verbs are sent to a cluster

    from leyden.cluster.submit import python_on_node
    from leyden.config.hydra import composing

    require_project()
    of_cluster = [each for each in arguments if key_of(each).split(".")[0] == "cluster"]
    with composing():
        cfg = hydra.compose("train", overrides=of_cluster, return_hydra_config=True)
    if (chosen := cfg.hydra.runtime.choices["hydra/launcher"]) != "slurm":
        raise UserError(f"{' '.join(of_cluster)}: runs jobs by {chosen}; {verb} is sent to Slurm alone")
    slurm.leave_job()
    slurm.check_resources(cfg.cluster)
    for name in ("nodes", "tasks_per_node"):
        if (num := cfg.cluster[name]) > 1:
            raise UserError(
                f"cluster.{name}={num}: {verb} is one process; set it to 1, or choose cluster=slurm_gpu"
            )
    if not cfg.cluster.wait:
        raise UserError(f"cluster.wait=false: {verb} prints what its job finds, so it waits for it")
    folder, python = ROOT / "outputs" / "slurm", python_on_node(cfg.cluster)
    if cfg.cluster.dry_run:
        print(slurm.script(folder, cfg.cluster, 1, python))
        return
    os.environ.setdefault(KEY, key())  # a node may have another home directory
    code = folder / f"{secrets.token_hex(6)}.code"
    call = (verb, [each for each in arguments if each not in of_cluster], str(Path.cwd()), str(code))
    (job,) = slurm.submit(folder, cfg.cluster, call_verb, [call], python=python)
    print(f"job {job['job_id']}: {job['log']}", file=sys.stderr)
    number, has_ended = 0, False
    while not code.exists():
        time.sleep(POLL_S)
        number += 1
        if number % 6:
            continue
        states = slurm.states([job["job_id"]])
        before, has_ended = has_ended, any(state.phase == "ended" for state in states.values())
        # On a network file system, the file may become visible after the state; and a requeued job ends, too.
        if before and has_ended and not code.exists():
            slurm.cancel_stuck(states)
            raise UserError(
                f"Slurm: job {job['job_id']} is {states[job['job_id']].text} without an end; see {job['log']}"
            )
    print(printable(_read(Path(job["log"]))), file=sys.stderr, end="")
    print(_read(_output_of(code)), end="")
    leave(int(code.read_text()))


def _output_of(code: Path) -> Path:
    """Return the path of a verb's output, beside that of its exit code."""
    return code.with_suffix(".out")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def call_verb(verb: str, arguments: list[str], folder: str, code: str) -> None:
    """Call a verb on a node; write its output to a file, and then its exit code to another.

    The process leaves its job, which must not be requeued: nobody would wait for it.

    Args:
        verb: Name of the verb.
        arguments: Its arguments.
        folder: The working directory.
        code: Path of the exit code's file.
    """
    slurm.leave_job()
    with _output_of(Path(code)).open("wb") as file:
        os.dup2(file.fileno(), 1)
    os.chdir(folder)
    sys.argv[1:] = arguments
    found: Any = Exit.BUG
    try:
        importlib.import_module(f"leyden.{verb}").main()
        found = Exit.DONE
    except SystemExit as end:
        found = end.code or Exit.DONE
        raise
    finally:
        sys.stdout.flush()
        os.fsync(1)
        with replacing(Path(code)) as file:
            file.write(str(int(found)).encode())
