from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from leyden.run.curves import read_points
from leyden.run.directory import Run
from tests.callbacks.events import scalars
from tests.conftest import assert_same_bits, checkpoint
from tests.records import forget_result

NEVER_BETTER = ("optimizer=sgd", "optimizer.lr=1e-30")


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.matrix
@pytest.mark.parametrize("lose", [damage, Path.unlink])
def test_a_lost_one_is_an_error_at_an_end_that_was_reached_and_another_epochs_in_a_longer_run(
    train, lose
):
    for epochs in (1, 3):  # the best epoch is known when a run is trained longer
        run, *_ = train("a", f"trainer.max_epochs={epochs}", *NEVER_BETTER, "test=auto")
        assert run.result.best_epoch == 1
        assert run.result.best_step == 9
    forget_result(run.directory)
    lose(run.directory / "checkpoints" / "best.ckpt")
    _, _, err = train("a", "trainer.max_epochs=3", *NEVER_BETTER, "test=auto", code=2)
    assert err.count("best.ckpt is lost") == 2
    assert "no epoch came after it; more trainer.max_epochs make another one" in err
    run, _, err = train("a", "trainer.max_epochs=4", *NEVER_BETTER, "test=auto")
    assert err.count("best.ckpt is lost") == 1
    assert checkpoint(run, "best")["global_step"] == 40
    assert run.result.objective.value == run.result.metrics["val/acc"]


@pytest.mark.matrix
@pytest.mark.parametrize(("accumulate", "epoch"), [(1, 10), (2, 5)])
def test_points_come_before_the_name(train, tmp_path, monkeypatch, accumulate, epoch):
    replace = Path.replace
    seen = {}

    def watched(self, target):
        replace(self, target)
        if Path(target).name == "last.ckpt":
            step = torch.load(target, weights_only=True)["global_step"]
            events = scalars(Run(tmp_path / "a")).items()
            tags = {name for name, points in events if step - 1 in dict(points)}
            points = read_points(tmp_path / "a" / "metrics.csv")
            table = {name for at, name, _ in points if at == step - 1}
            seen[step] = table & tags

    monkeypatch.setattr(Path, "replace", watched)
    train(
        "a",
        "callbacks=default",
        "callbacks.checkpoint.every_n_steps=3",
        f"trainer.accumulate_grad_batches={accumulate}",
        "trainer.log_every_n_steps=1",
        "trainer.max_epochs=2",
    )
    assert list(seen) == sorted({*range(3, 2 * epoch, 3), epoch, 2 * epoch})
    for step, found in seen.items():
        assert {"train/loss_step", "train/acc_step", "lr", "grad_norm"} <= found
        if step % epoch == 0:
            assert {"train/loss", "val/loss", "time/epoch_seconds"} <= found


def test_each_can_be_kept(train, monkeypatch):
    kept = ("callbacks.checkpoint.keep_all=true", "callbacks.checkpoint.every_n_steps=6")
    run, *_ = train("a", *kept, *NEVER_BETTER, "trainer.max_epochs=2")
    folder = run.directory / "checkpoints"
    steps = {}
    for path in folder.glob("*.ckpt"):
        steps[path.stem] = torch.load(path, weights_only=True)["global_step"]
    assert steps == {
        "last": 20,
        "best": 10,  # that of its epoch, whatever is saved within the next
        "epoch_1": 10,
        "epoch_2": 20,
        "step_6": 6,
        "step_12": 12,
        "step_18": 18,
    }
    assert folder.joinpath("epoch_2.ckpt").samefile(folder / "last.ckpt")
    # A disk that has no hard links.
    monkeypatch.setattr(Path, "hardlink_to", Mock(side_effect=OSError))
    copied, *_ = train("c", *kept, *NEVER_BETTER, "trainer.max_epochs=2")
    assert_same_bits(copied.directory, run.directory, "epoch_1")


MISFIT = "last.ckpt: does not fit this run ("
NONE = "last.ckpt: not the checkpoint of a run: "
# Where a checkpoint has another value, and what is said of it.
OTHERS = (
    ("callbacks RunCheckpoint best val/loss", "x", MISFIT),
    (
        "callbacks RankState processes 0 gradients",
        {"network.layers.1.weight": torch.zeros(2)},
        MISFIT,
    ),
    ("loops fit_loop", None, NONE),
    ("format", 2, "last.ckpt: has format 2, and this version of leyden reads 1 alone"),
    ("state_dict", "x", f"{NONE}it has no valid state_dict"),
    ("global_step", "x", f"{NONE}it has no valid global_step"),
    ("optimizer_states", [], "last.ckpt: not enough values to unpack"),
)


def test_a_state_of_another_type_is_refused_before_anything_is_trained(train):
    run, *_ = train("a", "trainer.max_epochs=1")
    before = run.result
    path = run.checkpoint("last")
    whole = path.read_bytes()
    for place, value, why in OTHERS:
        content = torch.load(path, weights_only=True)
        *keys, last = place.split()
        part = content
        for key in keys:
            part = part[int(key)] if key.isdigit() else part[key]
        part[last] = value
        torch.save(content, path)
        _, _, err = train("a", "trainer.max_epochs=2", "trust=true", code=2)
        assert why in err
        assert "Traceback" not in err
        assert "continues without it" not in err
        assert run.result == before
        path.write_bytes(whole)
