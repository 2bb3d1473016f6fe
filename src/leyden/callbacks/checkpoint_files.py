"""The files of a run's checkpoints: prepared beside their places, which they take when their points are written."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import lightning as L

from leyden.callbacks.checkpoint_io import SafeCheckpointIO
from leyden.config.terminal import warn
from leyden.run.files import damage, replacing
from leyden.run.lock import check_held

PREPARED = ".prepared"  # behind the name of a checkpoint that has not taken it yet


class CheckpointFiles:
    """`checkpoints/last.ckpt` and `checkpoints/best.ckpt` of a run, each there whole or as it was before.

    A run that goes on from a checkpoint logs what comes after it. So a checkpoint takes its place only when the points of
    all steps before it are written.

    Args:
        state_key: Under which a checkpoint keeps the metrics of the best epoch.
        max_kept_bytes: How much those may take that stay under names of their own; 0: none stays.
    """

    def __init__(self, state_key: str, max_kept_bytes: int) -> None:
        self.state_key, self.max_kept_bytes = state_key, max_kept_bytes
        self._prepared: dict[str, str] = {}  # with the name under which it stays
        self._is_full = False

    def prepare(self, trainer: L.Trainer, name: str, kept: str = "") -> None:
        """Write a checkpoint beside its place; `kept` is the name under which it may stay when another one takes its place."""
        trainer.save_checkpoint(self._path(trainer, name + PREPARED))
        self._prepared[name] = kept

    def commit(self, trainer: L.Trainer) -> None:
        """Let what is prepared take its place."""
        if not self._prepared:
            return
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero:
            for name in sorted(self._prepared):  # the best one first: the last one tells which it is
                path = self._path(trainer, name)
                prepared = path.with_name(name + PREPARED)
                if self.max_kept_bytes and (kept := self._prepared[name]):
                    self._keep(prepared, path.with_name(f"{kept}.ckpt"))
                prepared.replace(path)
        trainer.strategy.barrier()
        self._prepared = {}

    def _keep(self, path: Path, kept: Path) -> None:
        """Give a file one name more; on a disk that knows no such thing, a copy."""
        kept.unlink(missing_ok=True)  # of a run that has come here before
        try:
            kept.hardlink_to(path)
        except OSError:
            with replacing(kept) as file, path.open("rb") as source:
                shutil.copyfileobj(source, file)
        every = sorted(
            (each for kind in ("epoch", "step") for each in kept.parent.glob(f"{kind}_*.ckpt")),
            key=lambda each: each.stat().st_mtime_ns,
        )
        while len(every) > 1 and sum(each.stat().st_size for each in every) > self.max_kept_bytes:
            if not self._is_full:
                self._is_full = True
                warn(
                    f"{kept.parent}: callbacks.checkpoint.max_kept_gib is reached: the oldest checkpoints make room"
                )
            every.pop(0).unlink()

    def drop(self, trainer: L.Trainer) -> None:
        """Delete what is prepared, and has not taken its place."""
        if trainer.is_global_zero:
            for name in ("best.ckpt", "last.ckpt"):
                self._path(trainer, name + PREPARED).unlink(missing_ok=True)

    def read_best(self, trainer: L.Trainer, otherwise: str) -> dict[str, float] | None:
        """The metrics that `best.ckpt` has of itself; None if it is lost, and a line says what happens then."""
        path, best = self._path(trainer, "best.ckpt"), None
        try:
            if problem := damage(path):
                raise ValueError(problem)
            best = dict(SafeCheckpointIO().load_checkpoint(path)["callbacks"][self.state_key]["best"])
        except Exception as error:  # whatever there is in its place
            if trainer.is_global_zero:
                warn(f"{path} is lost ({' '.join(str(error).split())}): {otherwise}")
        trainer.strategy.barrier()  # all processes have seen the same
        return best

    def take_last_as_best(self, trainer: L.Trainer, metrics: Mapping[str, float]) -> None:
        """Write the last checkpoint as the best one, with these metrics."""
        if trainer.is_global_zero:
            files = SafeCheckpointIO()
            content = files.load_checkpoint(self._path(trainer, "last.ckpt"))
            content["callbacks"][self.state_key]["best"] = dict(metrics)
            files.save_checkpoint(content, self._path(trainer, "best.ckpt"))
        trainer.strategy.barrier()

    @staticmethod
    def _path(trainer: L.Trainer, name: str) -> Path:
        directory = Path(trainer.default_root_dir)
        check_held(directory)
        return directory / "checkpoints" / name
