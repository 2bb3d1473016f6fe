"""The best weights can be lost, and a run has an end all the same."""

import functools
import operator
import zipfile
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from leyden.exact.stages import Stages
from leyden.run.result import read_points
from tests.callbacks.events import metric
from tests.conftest import assert_same_bits, weights
from tests.records import forget_result
from tests.training.test_start import curves, train  # noqa: F401 - a fixture

NEVER_BETTER = ("optimizer=sgd", "optimizer.lr=1e-30")


def gone(path):
    path.unlink()


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def of_length_0(path):
    path.write_bytes(b"")


def another_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


@pytest.fixture(params=[gone, damaged, of_length_0, another_archive])
def lose(request):
    return request.param


def test_lost_before_an_end_that_was_reached_the_last_weights_are_evaluated(train, lose):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=2", *NEVER_BETTER, "test=auto")
    before = run.result
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 10
    forget_result(run.directory)
    lose(run.directory / "checkpoints" / "best.ckpt")
    run, _, err = train("a", "trainer.max_epochs=2", *NEVER_BETTER, "test=auto")
    assert err.count("best.ckpt is lost") == 2  # at the start and at the end
    assert "the last weights are used instead" in err
    assert "Traceback" not in err
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 20
    assert run.result.best_epoch is None
    assert list(run.result.metrics) == list(before.metrics)
    last = {name: value for step, name, value in curves(run) if step >= 19}
    for name in ("train/loss", "val/acc", "val/loss", "test/acc"):
        assert run.result.metrics[name] == pytest.approx(last[name])


def test_killed_when_the_last_weights_have_become_the_best_they_have_their_own_metrics(train, monkeypatch):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=2", *NEVER_BETTER, "test=auto")
    forget_result(run.directory)
    gone(run.directory / "checkpoints" / "best.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr("leyden.training.start.write_hparams", lambda *_: exit(3))
        train("a", "trainer.max_epochs=2", *NEVER_BETTER, code=3)
    run, _, err = train("a", "trainer.max_epochs=2", *NEVER_BETTER, "test=auto")
    assert "lost" not in err
    last = {name: value for step, name, value in curves(run) if step == 19}
    assert run.result.metrics["train/loss"] == pytest.approx(last["train/loss"])
    run, *_ = train("a", "trainer.max_epochs=3", *NEVER_BETTER, "test=auto")
    assert run.result.metrics["train/loss"] == pytest.approx(last["train/loss"])


def test_the_best_epoch_is_known_when_a_run_is_trained_longer(train):  # noqa: F811
    for epochs in (1, 3):
        run, *_ = train("a", f"trainer.max_epochs={epochs}", *NEVER_BETTER, "test=auto")
        assert (run.result.best_epoch, run.result.best_step) == (1, 9)


@pytest.mark.matrix
def test_lost_before_epochs_that_are_no_better_the_first_of_them_is_the_best(train, lose):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=1", *NEVER_BETTER, "test=auto")
    lose(run.directory / "checkpoints" / "best.ckpt")
    run, _, err = train("a", "trainer.max_epochs=3", *NEVER_BETTER, "test=auto")
    assert err.count("best.ckpt is lost") == 1
    assert torch.load(run.checkpoint("best"), weights_only=True)["global_step"] == 20
    assert run.result.objectives[0].value == run.result.metrics["val/acc"]


@pytest.mark.matrix
def test_lost_while_it_trains(train, lose, monkeypatch):  # noqa: F811
    from leyden.pictures.curves import Curves

    monkeypatch.setattr(
        Curves,
        "on_fit_end",
        lambda self, trainer, module: lose(run_dir(trainer) / "checkpoints" / "best.ckpt"),
    )
    run, _, err = train("a", "callbacks=default", "trainer.max_epochs=2", *NEVER_BETTER, "test=auto")
    assert err.count("best.ckpt is lost") == 1
    assert run.result.best_epoch is None  # the last weights, whenever they were measured
    assert run.result.status == "finished"
    assert all(
        torch.equal(weights(run.directory)[key], value) for key, value in weights(run.directory, "best").items()
    )


def run_dir(trainer):
    from leyden.run.directory import Run

    return Run(trainer.default_root_dir).directory


def test_values_of_an_earlier_validation_are_none_of_the_last_epoch(train):  # noqa: F811
    run, *_ = train(
        "a", "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "objective=null", "test=auto"
    )
    assert {name.split("/")[0] for name in run.result.metrics} == {"train", "test", "num_parameters"}


@pytest.mark.matrix
@pytest.mark.parametrize(("accumulate", "epoch"), [(1, 10), (2, 5)])
def test_points_come_before_the_name(train, tmp_path, monkeypatch, accumulate, epoch):  # noqa: F811
    replace, seen = Path.replace, {}

    def watched(self, target):
        replace(self, target)
        if Path(target).name == "last.ckpt":
            step = torch.load(target, weights_only=True)["global_step"]
            loaded = [
                (path.parent.name, event)
                for path in (tmp_path / "a").glob("*/events*")
                for event in LegacyEventFileLoader(str(path)).Load()
            ]
            tags = {
                metric(stage, value.tag)
                for stage, event in loaded
                if event.step == step - 1
                for value in event.summary.value
            }
            table = {name for at, name, _ in read_points(tmp_path / "a" / "metrics.csv") if at == step - 1}
            seen[step] = table, tags

    monkeypatch.setattr(Path, "replace", watched)
    arguments = ("callbacks.checkpoint.every_n_steps=3", f"trainer.accumulate_grad_batches={accumulate}")
    train("a", "callbacks=default", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", *arguments)
    expected = sorted({*range(3, 2 * epoch, 3), epoch, 2 * epoch})
    assert list(seen) == expected
    for step, (table, events) in seen.items():
        steps = {"train/loss_step", "train/acc_step", "lr", "grad_norm"}
        epochs = {"train/loss", "val/loss", "time/epoch_seconds"} if step % epoch == 0 else set()
        assert steps | epochs <= table
        assert steps | epochs <= events


def test_each_can_be_kept_within_bounds(train, monkeypatch):  # noqa: F811
    kept = ("callbacks.checkpoint.keep_all=true", "callbacks.checkpoint.every_n_steps=6")
    run, *_ = train("a", *kept, "trainer.max_epochs=2")
    folder = run.directory / "checkpoints"
    names = {"epoch_1": 10, "epoch_2": 20, "step_6": 6, "step_12": 12, "step_18": 18}
    steps = {path.stem: torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*_*.ckpt")}
    assert steps == names
    assert folder.joinpath("epoch_2.ckpt").samefile(folder / "last.ckpt")
    size = folder.joinpath("last.ckpt").stat().st_size
    _, _, err = train("b", *kept, f"callbacks.checkpoint.max_kept_gib={2.5 * size / 2**30}", "trainer.max_epochs=2")
    assert {path.stem for path in folder.parents[1].glob("b/checkpoints/*_*.ckpt")} == {"step_18", "epoch_2"}
    assert err.count("max_kept_gib is reached") == 1
    monkeypatch.setattr(Path, "hardlink_to", raising)  # a disk that has no hard links
    copied, *_ = train("c", *kept, "trainer.max_epochs=2")
    assert_same_bits(copied.directory, run.directory, "epoch_1")


def raising(*_):
    raise OSError


MISFIT = "last.ckpt: does not fit this run ("


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("callbacks Stages metrics val/loss", b"x", MISFIT),
        ("callbacks Stages names val/loss", "x", MISFIT),
        ("callbacks Stages names train/loss", None, MISFIT),
        ("callbacks RunCheckpoint best val/loss", "x", MISFIT),
        ("callbacks RunCheckpoint last", 1, MISFIT),
        ("callbacks SamplesSeen num_epochs", None, MISFIT),
        ("callbacks Gradients processes", [{"network.0.weight": torch.zeros(2)}], MISFIT),
        ("callbacks RankState processes 0 memory", 1, MISFIT),
        ("loops fit_loop epoch_progress", [], MISFIT),
        ("loops fit_loop state_dict combined_loader", None, MISFIT),
        (
            "loops fit_loop epoch_loop.state_dict _batches_that_stepped",
            "x",
            "last.ckpt: not the checkpoint of a run: ",
        ),
        ("loops fit_loop", None, "last.ckpt: not the checkpoint of a run: "),
    ],
)
def test_a_state_of_another_type_is_refused_before_anything_is_trained(train, place, value, why):  # noqa: F811
    run, *_ = train("a", "trainer.max_epochs=1")
    content = torch.load(run.checkpoint("last"), weights_only=True)
    content["callbacks"].setdefault("Gradients", {})  # an empty state is not written
    *keys, last = (int(key) if key.isdigit() else key for key in place.split())
    functools.reduce(operator.getitem, keys, content)[last] = value
    torch.save(content, run.checkpoint("last"))
    before = run.result
    _, _, err = train("a", "trainer.max_epochs=2", code=2)
    assert why in err
    assert "Traceback" not in err
    assert "continues without it" not in err
    assert run.result == before


def test_an_error_of_a_start_hook_that_restores_is_a_checkpoint_that_does_not_fit(train, monkeypatch):  # noqa: F811
    train("a", "trainer.max_epochs=1")
    monkeypatch.setattr(Stages, "load_state_dict", lambda self, state: setattr(self, "_restored", None))
    assert "does not fit this run (AttributeError" in train("a", "trainer.max_epochs=2", code=2)[2]
