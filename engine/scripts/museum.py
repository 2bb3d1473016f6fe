"""Make a room of the museum: runs of each kind, a sweep and a search, in the format that this code writes.

python engine/scripts/museum.py format-2

It writes `engine/tests/museum/format-2.tar.xz`, which tests read from then on. A room that is there is never made again.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from leyden.base.paths import PROJECT
from leyden.run.directory import Run
from leyden.run.record import read_record

MUSEUM = Path(__file__).resolve().parents[1] / "tests" / "museum"
KEY = (MUSEUM / "key").read_text(encoding="utf-8").strip()
FOLDER = "/museum"  # stands in the rooms for the folder in which they were made
SEARCH = (
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=random",
    "hydra.sweeper.num_trials=5",
    "callbacks/pruning=median",
    "callbacks.pruning.pruner.n_startup_trials=1",
    "callbacks.pruning.pruner.n_warmup_steps=0",
    "optimizer.lr=tag(log,interval(1e-8,1))",
)
# The arguments of each command, and after which step it ends before its time.
COMMANDS = (
    ("run_dir=outputs/finished model.bias=true tags=[a,b]", ""),
    ("run_dir=outputs/interrupted seed=1 test=false", "interrupted@10"),
    ("run_dir=outputs/failed seed=2 test=false", "failed@10"),
    ("run_dir=outputs/fork fork=outputs/finished trainer.max_epochs=4", ""),
    ("-m sweep_name=sweep optimizer.lr=0.1,0.01 seed=0,1", ""),
    (" ".join(("-m sweep_name=search", *SEARCH)), ""),
)
STATUSES = {"finished", "interrupted", "failed", "pruned"}


def main() -> None:
    """Make the room that the command names."""
    (name,) = sys.argv[1:]
    room = MUSEUM / f"{name}.tar.xz"
    if room.exists():
        sys.exit(f"{room}: is there, and a room is never made again")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder).resolve() / "project"
        make_runs(project)
        make_queued_run(project / "outputs")
        replacements = {
            str(project): FOLDER,
            str(Path(sys.executable).parent.resolve()): f"{FOLDER}/bin",
        }
        neutralize(project / "outputs", replacements)
        check(project / "outputs", replacements)
        with tarfile.open(room, "w:xz") as archive:
            archive.add(project / "outputs", "outputs", filter=without_owner)
    print(f"{room}: {room.stat().st_size // 1000} kB")


def make_runs(project: Path) -> None:
    """Run the commands in a copy of the museum's project."""
    subprocess.run(["cp", "-r", MUSEUM / "project", project], check=True)
    who = ("-c", "user.name=museum", "-c", "user.email=museum@example.org")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The project"]):
        subprocess.run(["git", *who, *words], cwd=project, check=True)
    for arguments, ending in COMMANDS:
        subprocess.run(
            [sys.executable, "-m", "leyden.train", *arguments.split()],
            cwd=project,
            env={**os.environ, PROJECT: str(project), "MUSEUM_ENDING": ending},
            check=not ending,
        )


def make_queued_run(outputs: Path) -> None:
    """Write what is there of a run that was submitted to a cluster, and has not started."""
    begun = read_record(outputs / "finished")
    assert begun is not None
    queued = outputs / "queued"
    queued.mkdir()
    start = {**begun.starts[0], "machine": None, "data": None, "step": None, "code": None}
    replace(begun, result=None, starts=[start], checkpoints={}).write(queued)
    Run(queued).submission = {"scheduler": "slurm", "job_id": "7", "log": f"{FOLDER}/7.log"}


def neutralize(outputs: Path, replacements: dict[str, str]) -> None:
    """Replace this machine's names in all files that are text, and sign the records anew."""
    for path in sorted(outputs.rglob("*")):
        if path.is_dir():
            continue
        is_lock = (
            path.name.startswith(".lock") or "lock" in path.parent.name or path.suffix == ".lock"
        )
        if is_lock or path.suffix == ".png":
            path.unlink()
        elif path.name == "run.json":
            record = read_record(path.parent)
            assert record is not None
            config = replaced(record.config, replacements)
            starts = [
                {**replaced(start, replacements), "host": "museum"} for start in record.starts
            ]
            replace(record, config=config, starts=starts).write(path.parent)
        elif path.suffix != ".ckpt":
            text = path.read_text(encoding="utf-8")
            path.write_text(replaced(text, replacements), encoding="utf-8")


def replaced(node: Any, replacements: dict[str, str]) -> Any:
    """Return plain values with other names in all their texts."""
    if isinstance(node, dict):
        return {key: replaced(value, replacements) for key, value in node.items()}
    if isinstance(node, list):
        return [replaced(value, replacements) for value in node]
    if isinstance(node, str):
        for name, other in replacements.items():
            node = node.replace(name, other)
    return node


def check(outputs: Path, replacements: dict[str, str]) -> None:
    """Check that the room has all kinds of runs, and no name of this machine."""
    statuses = set()
    for path in outputs.rglob("run.json"):
        result = Run(path.parent).result
        statuses.add(result.status if result else "interrupted")
    assert statuses == STATUSES, statuses
    for path in outputs.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(name.encode() in content for name in replacements), path


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member of the archive without the names of this machine's user."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    os.environ["LEYDEN_KEY"] = KEY
    main()
