"""Virtual ranks: the same bits on any number of processes."""

import ast
import contextlib
import functools
import os
import socket
from unittest import mock

import lightning as L
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader, IterableDataset

from leyden.exact import Elastic, Exact, ExactError, shard
from leyden.exact.elastic import check_ranks
from leyden.exact.ranks import Ranks
from leyden.exact.tree import Tree, block
from tests import ENGINE
from tests.conftest import start
from tests.exact import elastic
from tests.forks import TIMEOUT_S

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own


def test_a_sum_has_one_order_whichever_processes_hold_its_leaves():
    for num in range(1, 25):
        sums = set()
        for size in range(1, num + 1):
            if num % size:
                continue
            tree = Tree(num, 0, size)
            whole = {}
            for rank in range(size):
                mine = {}
                for leaf in block(rank, size, num):
                    tree.hold(mine, (0, leaf), leaf, lambda a, b: (a, b))
                assert [*mine] == [node for node, owner in tree.owners.items() if owner == rank]
                for node, value in mine.items():
                    tree.hold(whole, node, value, lambda a, b: (a, b))
            assert [*whole] == [tree.root]
            sums.add(repr(whole[tree.root]))
        assert len(sums) == 1, num


def test_virtual_ranks_wait_for_each_other():
    ranks = Ranks(range(3), 3, lambda rank: None)
    assert ranks.run(lambda rank: sum(ranks.meet(rank)) + rank) == {0: 3, 1: 4, 2: 5}
    with pytest.raises(ExactError, match="others don't, or have no batch"):
        ranks.run(lambda rank: rank and ranks.meet(rank))


class Manual(elastic.Base):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Synced(elastic.Base):
    def made(self):
        return nn.SyncBatchNorm(16)


class Sharded(elastic.Base):
    def configure_model(self):
        shard(self.net, init_device_mesh("cpu", (1,)))


class Sparse(elastic.Base):
    def made(self):
        table = nn.Embedding(4, 4, sparse=True)
        return nn.Sequential(nn.Linear(16, 4), nn.Softmax(1), _Indices(), table)


class _Indices(nn.Module):
    def forward(self, inputs):
        return inputs.argmax(1)


class Frozen(elastic.Base):
    def training_step(self, batch, batch_idx):
        self.net[0].requires_grad_(batch_idx < 1)
        return super().training_step(batch, batch_idx)


class Grows(elastic.Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.seen = torch.cat([self.seen, batch[0][0, :1]])
        return super().training_step(batch, batch_idx)


class Moved(elastic.Base):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch


class Follows(elastic.Base):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        followed = {"scheduler": schedule, "interval": "step", "monitor": "train/loss"}
        return {"optimizer": optimizer, "lr_scheduler": followed}


class Waits(elastic.Base):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", batch[0].mean(), on_step=True, sync_dist=True)


class Drawn(IterableDataset):
    def __iter__(self):
        return iter(elastic.Noisy(40, 0))


class Own(elastic.Noisy):
    def __getitem__(self, index):
        self.num = index
        return super().__getitem__(index)


class Late(elastic.Base):
    def __init__(self):
        super().__init__()
        self.net[1].seen = []

    def training_step(self, batch, batch_idx):
        if batch_idx == 4:
            self.net[1].seen.append(batch_idx)
        return super().training_step(batch, batch_idx)


ONE = functools.partial(elastic.options, 1, 4, max_epochs=1)
REFUSED = {
    "by hand": (
        Manual,
        elastic.Noisy(40, 0),
        {"gradient_clip_val": None},
        "Manual steps its optimizers by hand",
    ),
    "synced": (Synced, elastic.Noisy(40, 0), {}, "net is a SyncBatchNorm"),
    "sharded": (Sharded, elastic.Noisy(40, 0), {}, "Sharded shards its weights"),
    "sparse": (Sparse, elastic.Noisy(40, 0), {}, "sparse gradients can't be added up"),
    "frozen": (Frozen, elastic.Noisy(80, 0), {}, "training_step freezes weights"),
    "grows": (Grows, elastic.Noisy(80, 0), {}, "puts another tensor in the place of module.seen"),
    "moved": (Moved, elastic.Noisy(40, 0), {}, "Moved has on_before_batch_transfer"),
    "follows": (Follows, elastic.Noisy(40, 0), {}, "a schedule follows train/loss by step"),
    "waits": (Waits, elastic.Noisy(33, 0), {}, "and others don't, or have no batch"),
    "stream": (elastic.Base, Drawn(), {}, "Drawn is an IterableDataset"),
    "own": (elastic.Base, Own(80, 0), {}, "dataset.num changes as samples are read"),
    "late": (
        Late,
        elastic.Noisy(300, 0),
        {},
        "seen changes in training_step, but not in its first",
    ),
    "few": (elastic.Base, elastic.Noisy(3, 0), {}, "4 virtual ranks can't share the 3 samples"),
    "whole": (
        elastic.Base,
        elastic.Noisy(40, 0),
        {"use_distributed_sampler": False},
        "needs use_distributed_sampler=True",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_virtual_ranks_cannot_share_is_refused_in_a_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kind, samples, more, said = REFUSED[name]
    exact = Exact(tmp_path, exact="require")
    with alone():
        trainer = L.Trainer(callbacks=[exact], **ONE(**more))
        with pytest.raises(ExactError, match=said):
            exact.fit(trainer, kind(), DataLoader(samples, 8), DataLoader(samples, 8))


@contextlib.contextmanager
def alone():
    """Context that leaves this process no group of processes, nor its variables."""
    with mock.patch.dict(os.environ):
        try:
            yield
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_without_exact_it_trains_and_one_process_predicts_each_sample_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module = elastic.Base()
    module.predict_step = lambda batch, batch_idx: batch[0]
    samples = elastic.Noisy(33, 0)
    with alone():
        trainer = L.Trainer(**ONE(enable_checkpointing=True, default_root_dir=tmp_path))
        trainer.fit(module, DataLoader(samples, 8))
        assert [*tmp_path.rglob("*.ckpt")]
        parts = trainer.predict(module, DataLoader(samples, 8))
    assert torch.cat(parts).shape == samples.inputs.shape


@pytest.mark.slow
def test_a_run_keeps_its_virtual_ranks_and_says_of_other_threads(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def fit(name, max_epochs, **more):
        exact = Exact(tmp_path / name, seed=1)
        with alone():
            trainer = L.Trainer(callbacks=[exact], **ONE(max_epochs=max_epochs, **more))
            exact.fit(trainer, elastic.Base(), DataLoader(elastic.Noisy(40, 0), 8))

    fit("plain", 1, strategy="auto")
    fit("elastic", 1)
    with pytest.raises(ExactError, match="by 1 processes, and this start has 4 virtual ranks"):
        fit("plain", 2)
    with pytest.raises(ExactError, match="by 4 virtual ranks, and this start has 1 processes"):
        fit("elastic", 2, strategy="auto")
    with pytest.raises(ExactError, match="by 4 virtual ranks, and this start has 2 virtual ranks"):
        fit("elastic", 2, strategy=Elastic(2, process_group_backend="gloo"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    fit("elastic", 2)
    assert "trained with OMP_NUM_THREADS=1, and this start has 2" in capsys.readouterr().err
    torch.set_num_threads(1)


def test_processes_divide_the_virtual_ranks():
    with pytest.raises(ExactError, match=r"must be one of 1, 2, 3, 6$"):
        check_ranks(6, 4)
    with pytest.raises(ValueError, match="virtual_ranks=0: must be a positive whole number"):
        Elastic(0)
    with pytest.raises(TypeError, match="ddp_comm_hook"):
        Elastic(2, ddp_comm_hook=print)


def ends_of(kinds, ranks, folder, *schedule, **environment):
    """What trainings end with that a number of processes each has trained, killed at a step but for the last."""
    for processes, kill_at in schedule:
        arguments = (",".join(kinds), str(processes), str(ranks), str(folder), str(kill_at))
        shared = {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", **environment}
        script = ("-m", "tests.exact.elastic")
        started = []
        for rank in range(processes):
            of_rank = {"LOCAL_RANK": str(rank), **shared}
            started.append(start(*arguments, script=script, cwd=ENGINE, **of_rank))
        outputs = [each.communicate(timeout=TIMEOUT_S)[0] for each in started]
        for each, output in zip(started, outputs, strict=True):
            assert (each.returncode == 0) == (kill_at < 0), output
            assert "not guaranteed" not in output
    return {kind: (folder / kind / "end.txt").read_text() for kind in kinds}


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.mark.slow(minutes=1)
@pytest.mark.matrix
@pytest.mark.parametrize(("ranks", "processes"), [(4, 2), (4, 4), (6, 3), (8, 8)])
def test_any_number_of_processes_gives_the_same_bits(tmp_path, ranks, processes):
    alone = ends_of(elastic.CASES, ranks, tmp_path / "one", (1, -1))
    assert f"('val/num', {10 * ranks + 1}.0)" in alone["stranger"]  # each sample once
    assert ends_of(elastic.CASES, ranks, tmp_path / "others", (processes, -1)) == alone


SHORT = ("few", "weighted")  # four steps in all
SCHEDULES = (
    ("stranger", 4, ((2, 3), (4, 7), (1, -1))),
    *[(kind, 4, ((1, 3), (4, 5), (2, -1))) for kind in elastic.CASES if kind not in SHORT],
    *[(kind, 4, ((1, 1), (4, 3), (2, -1))) for kind in SHORT],
    *[(kind, 8, ((8, 3), (4, 5), (2, 9), (1, -1))) for kind in elastic.KINDS],
)


@pytest.mark.slow(minutes=1)
@pytest.mark.matrix
@pytest.mark.parametrize(("kind", "ranks", "schedule"), SCHEDULES)
def test_killed_in_an_exchange_it_goes_on_with_other_processes(tmp_path, kind, ranks, schedule):
    alone = ends_of([kind], ranks, tmp_path / "one", (1, -1))
    assert ends_of([kind], ranks, tmp_path / "others", *schedule) == alone


@pytest.mark.slow
def test_as_many_virtual_ranks_as_processes_are_ddp(tmp_path):
    # The sum of two numbers has no order.
    kinds = ("perceptron", "convolution", "transformer", "looked")
    for num in (1, 2):
        folder = tmp_path / str(num)
        ends = [ends_of(kinds, ranks, folder / str(ranks), (num, -1)) for ranks in (num, -num)]
        for kind in kinds:
            weights, of_ddp = [ast.literal_eval(each[kind])[0] for each in ends]
            assert weights == of_ddp, (kind, num)


@pytest.mark.gpu
@pytest.mark.slow
def test_gpus_give_the_same_bits(tmp_path):
    # On one GPU; on two, by NCCL, nobody has tried yet.
    on_gpu = {"ACCELERATOR": "gpu", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    whole = ends_of(elastic.KINDS, 2, tmp_path / "whole", (1, -1), **on_gpu)
    schedules = [((1, 3), (1, -1)), ((2, -1),), ((2, 3), (1, 5), (2, -1))]
    if torch.cuda.device_count() < 2:
        schedules = schedules[:1]
    for number, schedule in enumerate(schedules):
        assert ends_of(elastic.KINDS, 2, tmp_path / str(number), *schedule, **on_gpu) == whole
