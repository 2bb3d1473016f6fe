from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from leyden import assembly
from leyden.assembly.lengths import num_batches
from leyden.base.metric_names import STAGES
from leyden.data.contract import Facts, digests_of, facts_of, num_samples
from leyden.data.transforms import Normalize
from leyden.testing.contracts import compose
from tests.strangers.plain import Plain, Rows
from tests.tasks.test_table import BY_HAND
from tests.training.test_start import curves

ROWS = range(7)
TASK = ("task=own", "task._target_=tests.tasks.own.Plain", "trainer.log_every_n_steps=3")
FEW = ("objective=null", "callbacks=bare", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")


def test_the_samples_of_an_epoch_are_those_that_its_sampler_draws():
    for num, given in (
        (7, {"batch_size": 2}),
        (7, {"batch_size": None}),
        (30, {"sampler": WeightedRandomSampler([1.0] * 7, 30)}),
        (3, {"sampler": RandomSampler(ROWS, num_samples=3)}),
        (7, {"batch_sampler": BatchSampler(SequentialSampler(ROWS), 2, drop_last=False)}),
        (None, {"batch_sampler": [[0, 1]] * 20}),  # one of one's own
    ):
        assert num_samples(DataLoader(ROWS, **given)) == num


def test_facts_of_ones_own_are_those_of_a_checkpoint_and_have_names_of_their_own():
    images = {"class_names": ["a", "b"], "num_classes": 2, "input_shape": [3, 32, 32]}
    for facts in (images, {"input_shape": (4,), "num_rooms": 3, "names": ["x"]}, {}):
        found = facts_of(SimpleNamespace(facts=facts))
        assert Facts.from_state(found.to_state()) == found
        assert found.normalize.scale == 1.0
        expected = dict(facts)
        for name in {"class_names", "input_shape"} & {*facts}:
            expected[name] = tuple(facts[name])
        assert found.by_name.items() >= expected.items()
    for name in ("input_shape", "num_outputs", "vocab_size"):
        with pytest.raises(ValueError, match=f"facts.{name}: is Leyden's own name"):
            Facts(extra={name: 3})
    for name, value in (
        ("class_names", torch.zeros(2)),
        ("mean", ("a",)),
        ("num_classes", b"2"),
        ("std", [[1.0]]),
    ):
        with pytest.raises(ValueError, match=f"facts.{name}: must be (names|numbers) or None"):
            Facts(**{name: value})
    for found, expected in (({"a": "1"}, {"a": "1"}), (["a"], {}), ({"a": 1}, {})):
        assert digests_of(SimpleNamespace(digests=found)) == expected


PIXELS_NCHW = (torch.arange(50 * 3 * 4 * 4).reshape(50, 3, 4, 4) * 7 % 256).to(torch.uint8)


def test_normalisation_is_exact_and_leaves_what_it_is_given():
    unit = Normalize((0.0,) * 3, (1.0,) * 3)
    assert torch.equal(unit(PIXELS_NCHW), PIXELS_NCHW.float() / 255)
    for kind in (torch.uint8, torch.float32, torch.float64):
        given = PIXELS_NCHW.to(kind)
        Normalize((0.1,) * 3, (0.3,) * 3)(given)
        assert torch.equal(given, PIXELS_NCHW.to(kind))
    # A mean and no scale: pixels.
    assert Facts((1, 2, 2), mean=(0.0,), std=(1.0,)).normalize.scale == 255.0


def test_standardized_channels_have_mean_0_and_deviation_1():
    standardize = Normalize.standardize_pixels([PIXELS_NCHW[:20], PIXELS_NCHW[20:]])
    images_NCHW = standardize(PIXELS_NCHW).double()
    mean = images_NCHW.mean(dim=(0, 2, 3))
    deviation = images_NCHW.std(dim=(0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-6
    assert (deviation - 1).abs().max() < 1e-6
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert not Normalize.standardize_pixels([black])(black).any()
    # Numbers, one number, and a category, which stays.
    table = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, 1.0]])
    assert Normalize.standardize(table)(table).tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]


def test_what_a_data_module_lacks_costs_that_feature_only(train):
    training_only = ("data=own", "data._target_=tests.data.own.TrainingOnly")
    data = (*training_only, *TASK, "objective.metric=train/acc")
    run, out, err = train("a", *data, "trainer.max_epochs=1")
    assert "no evaluation on the test set: the data have no test_dataloader" in out
    assert "samples: train 200" in out
    assert "failed" not in err
    assert run.result.metrics["train/acc"] > 0
    _, _, err = train("b", *data, "test=true", code=2)
    assert "test=true: the data have no test_dataloader" in err


def test_facts_reach_a_network_and_a_further_stage_is_evaluated_at_the_end(train, monkeypatch):
    for module in ("training.evaluation", "tasks", "loggers", "data.contract"):
        monkeypatch.setattr(f"leyden.{module}.STAGES", (*STAGES, "further"))
    data = ("data=own", "data._target_=tests.data.own.WithSizes", "trainer.max_epochs=1")
    few = (*data, "model.hidden_sizes=[16]")
    run, *_ = train("a", *few)
    assert {*run.result.stages["further"]} == {"further/loss", "further/acc"}
    # Of the same samples.
    assert run.result.metrics["further/acc"] == run.result.metrics["test/acc"] >= 0
    assert list((run.directory / "further").glob("events*"))
    pictures = {path.name for path in run.directory.glob("*.png")}
    assert "confusion.png" in pictures
    assert "errors.png" not in pictures  # there are no inputs(split, indices) to show
    for split in ("further", "test"):  # no run is selected by what is not logged while it trains
        _, _, err = train("b", *few, f"objective.metric={split}/loss", code=2)
        allowed = "must be one of train/acc, train/loss, val/acc, val/loss\n"
        assert f"objective.metric={split}/loss: {allowed}" in err
    run, out, _ = train("c", *BY_HAND, *data)  # has no test_step
    assert "no evaluation on further: the task has no test_step" in out
    assert "further" not in run.result.stages


def test_a_schedule_of_data_that_tell_no_length_needs_a_number_of_steps(train):
    data = (
        "data=own",
        "data._target_=tests.data.own.Streaming",
        "model.hidden_sizes=[16]",
        "scheduler=onecycle",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
    )
    _, _, err = train("a", *data, code=2)
    assert "scheduler: the number of batches of these data is unknown; set trainer.max_steps" in err
    run, *_ = train("a", *data, "+trainer.max_steps=15")
    assert run.result.optimizer_steps == 15
    rates = [value for _, name, value in curves(run) if name.startswith("lr")]
    assert rates[-1] < 1e-5 < max(rates)


def test_the_jobs_of_a_sweep_are_checked_on_data_that_are_read_once(mnist_root):
    assembly.silence_lightning()
    read = {}
    for choice in ("data.batch_size=10", "optimizer.lr=1", "optimizer.lr=2"):
        assembly.dry_build(compose(f"data.root={mnist_root}", choice), read)
    assert len(read) == 2


def test_a_module_with_loaders_of_its_own_is_attached(train):
    whole = ("data=module", "task=own", "task._target_=tests.data.test_contract.Whole")
    run, *_ = train("own", *whole, *FEW)
    assert run.result.epochs == 1


class Whole(Plain):
    def train_dataloader(self):
        return DataLoader(Rows(8), 4)


def test_a_processs_share_of_the_batches_is_that_of_lightnings_sampler():
    sampler = DistributedSampler(ROWS, num_replicas=2, rank=0)
    trainer = SimpleNamespace(limit_train_batches=None, world_size=2)
    plain = L.LightningDataModule()
    divided = L.LightningDataModule()
    divided.check_world_size = print
    for loader, data, num in (
        (DataLoader(range(8)), plain, 4),
        (DataLoader(range(7)), plain, 4),
        (DataLoader(range(8)), divided, 8),
        (DataLoader(Stream()), plain, 8),
        (DataLoader(ROWS, sampler=sampler), plain, len(sampler)),
        ([DataLoader(range(8)), DataLoader(Stream())], plain, 8),
    ):
        data.train_dataloader = lambda loader=loader: loader
        assert num_batches(trainer, data) == num


class Stream(IterableDataset):
    def __len__(self):
        return 8

    def __iter__(self):
        raise NotImplementedError
