"""`Exact.fit` with what Lightning's own trainer does to it: limits of batches, averages of weights."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelPruning, StochasticWeightAveraging
from torch.utils.data import DataLoader, IterableDataset

from leyden.exact import Exact, ExactError
from tests.exact.test_fit import QUIET, Kill, KilledError

BATCHES = 6
pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning, on how it would be faster


class Drawn(IterableDataset):
    """Samples that are drawn, without a length."""

    def __iter__(self):
        for _ in range(40):
            yield torch.randn(4)


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        noise = torch.randn(4)
        return {"loss": (self.layers(batch + noise) - batch.sum(1, keepdim=True)).square().mean() * self.hparams.lr}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


class Data(L.LightningDataModule):
    """Batches of a size that can be searched."""

    batch_size = 2

    def train_dataloader(self):
        samples = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(samples, self.batch_size, shuffle=True)


def train(folder, kill_at=(), data=lambda module: Data(), callbacks=list, mode="report", make=Module, **options):
    """Train, with a start after each kill; return the module."""
    for at in (*kill_at, None):
        exact = Exact(folder, every_n_steps=2, exact=mode)
        trainer = L.Trainer(
            max_epochs=2,
            devices=1,
            default_root_dir=folder.parent,
            callbacks=[*callbacks(), Kill(at), exact],
            **{**QUIET, **options},
        )
        module = make()
        if at is None:
            exact.fit(trainer, module, data(module))
        else:
            with pytest.raises(KilledError):
                exact.fit(trainer, module, data(module))
    return module


def is_same(module, other):
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("limit", [{"limit_train_batches": BATCHES}, {}], ids=["limit", "all"])
def test_batches_of_a_loader_without_length_go_on_where_they_were(tmp_path, limit):
    def data(module):
        return DataLoader(Drawn(), 4)

    whole = train(tmp_path / "a", data=data, **limit)
    assert is_same(train(tmp_path / "b", (3, 9), data=data, **limit), whole)


@pytest.mark.parametrize("search", [LearningRateFinder, BatchSizeFinder])
def test_a_search_in_each_start_is_refused(tmp_path, search):
    with pytest.raises(ExactError, match=f"{search.__name__} trains and goes back before the run begins"):
        train(tmp_path / "a", callbacks=lambda: [search()])


def averaging():
    return [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)]


def test_a_schedule_that_is_lost_within_an_epoch_is_announced(tmp_path, capsys):
    train(tmp_path / "a", (3,), callbacks=averaging, limit_train_batches=BATCHES)
    assert (
        "exact resume is not guaranteed: the checkpoint has 1 schedules, and this start 0"
        in capsys.readouterr().err
    )


def test_a_schedule_that_is_lost_within_an_epoch_is_an_error_if_asked(tmp_path):
    with pytest.raises(ExactError, match="1 schedules"):
        train(tmp_path / "a", (3,), callbacks=averaging, mode="require", limit_train_batches=BATCHES)


def test_a_mask_that_is_lost_is_announced_though_the_first_loss_is_the_same(tmp_path, capsys):
    def callbacks():
        return [ModelPruning("l1_unstructured", amount=0.5)]

    train(tmp_path / "a", (BATCHES + 3,), callbacks=callbacks, limit_train_batches=BATCHES)
    assert f"parts from the interrupted run at step {BATCHES + 3} (weights " in capsys.readouterr().err


class FromBuffer(IterableDataset):
    """Samples that an epoch draws at its start, from a list."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __iter__(self):
        for n in torch.randint(len(self.buffer), (24,)):
            yield torch.full((4,), self.buffer[n])


class Collector(Module):
    """Fills the list from which its loader draws."""

    def __init__(self):
        super().__init__()
        self.buffer = [0.1, 0.2, 0.3]

    def training_step(self, batch, batch_idx):
        self.buffer.append(float(self.global_step))
        return super().training_step(batch, batch_idx)


def test_an_epoch_is_drawn_from_what_a_list_was_at_its_start(tmp_path):
    def data(module):
        return DataLoader(FromBuffer(module.buffer), 4)

    more = {"make": Collector, "data": data, "limit_train_batches": BATCHES}
    whole = train(tmp_path / "a", **more)
    assert is_same(train(tmp_path / "b", (3, 10), **more), whole)
    assert len(whole.buffer) == 3 + 2 * BATCHES
