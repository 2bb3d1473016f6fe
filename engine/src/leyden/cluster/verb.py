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
from leyden.config.terminal import show
from leyden.run.identity import key_of
from leyden.run.record import KEY, key

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
        UserError: The cluster is not Slurm, or rejects the job.
    """
    import hydra  # late, as few verbs are sent to a cluster

    from leyden.cluster.submit import python_on_node
    from leyden.config.hydra import composing
    from leyden.scheduler import slurm

    require_project()
    of_cluster = [each for each in arguments if key_of(each).split(".")[0] == "cluster"]
    with composing():
        cfg = hydra.compose("train", overrides=of_cluster, return_hydra_config=True)
    if (chosen := cfg.hydra.runtime.choices["hydra/launcher"]) != "slurm":
        raise UserError(f"{' '.join(of_cluster)}: runs jobs by {chosen}; {verb} is sent to Slurm alone")
    slurm.leave_job()
    slurm.check_resources(cfg.cluster)
    os.environ.setdefault(KEY, key())  # a node may have another home directory
    folder = ROOT / "outputs" / "slurm"
    code = folder / f"{secrets.token_hex(6)}.code"
    call = (verb, [each for each in arguments if each not in of_cluster], str(Path.cwd()), str(code))
    (job,) = slurm.submit(folder, cfg.cluster, call_verb, [call], python=python_on_node(cfg.cluster))
    print(f"job {job['job_id']}: {job['log']}", file=sys.stderr)
    number = 0
    while not code.exists():
        time.sleep(POLL_S)
        number += 1
        states = slurm.states([job["job_id"]]) if number % 6 == 0 else {}
        if any(state.phase == "ended" for state in states.values()) and not code.exists():
            raise UserError(
                f"Slurm: job {job['job_id']} is {states[job['job_id']].text} without an end; see {job['log']}"
            )
    show(Path(job["log"]).read_text(encoding="utf-8", errors="replace").rstrip())
    leave(int(code.read_text()))


def call_verb(verb: str, arguments: list[str], folder: str, code: str) -> None:
    """Call a verb on a node, and write its exit code to a file.

    Args:
        verb: Name of the verb.
        arguments: Its arguments.
        folder: The working directory.
        code: Path of the file.
    """
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
        Path(code).write_text(str(int(found)))
