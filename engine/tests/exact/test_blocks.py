"""`with Exact(…)`: whoever calls `Trainer.fit` inside, and of whichever tree, resumes to the same bits."""

import contextlib
import subprocess
import sys
import threading

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden import Exact
from leyden.exact import ExactError
from leyden.exact.digest import digest_of_content
from tests.exact.test_fit import KilledError, Rows

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own
TREES = {"lightning": lightning.pytorch, "pytorch_lightning": pytorch_lightning}
ORIGINALS = {name: tree.Trainer.fit for name, tree in TREES.items()}


@pytest.fixture(params=TREES)
def pl(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where Lightning writes its own checkpoints
    yield TREES[request.param]
    assert {name: tree.Trainer.fit for name, tree in TREES.items()} == ORIGINALS


class Library:
    """A library that makes its Trainer, with callbacks of its own."""

    def __init__(self, pl, at=-1, kind=None, bar=(), **options):
        class Net(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 1))
                self.seen, self.lr = 0, 0.01

            def training_step(self, batch, batch_idx):
                self.seen += 1
                inputs, targets = batch
                loss = ((self.net(inputs)[:, 0] - targets) ** 2).mean() * (1 + self.seen / 9)
                self.log("loss", loss, on_epoch=True)
                return loss

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=self.lr)

        class Kill(pl.Callback):
            def on_train_batch_end(self, trainer, *args):
                if trainer.global_step == at:
                    raise KilledError

        self.pl, self.module, self.kill = pl, Net(), Kill()
        self.kind, self.options, self.bar = kind or pl.Trainer, options, bar

    def trainer(self, **more):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        options = {**quiet, "accelerator": "cpu", "max_epochs": 2, **self.options, **more}
        return self.kind(callbacks=[self.kill, *(make() for make in self.bar)], **options)

    def fit(self, **given):
        trainer = self.trainer()
        with contextlib.suppress(KilledError):
            trainer.fit(self.module, DataLoader(Rows(160), 16, shuffle=True), **given)
        return self.bits()

    def bits(self):
        return digest_of_content([self.module.state_dict(), self.module.seen])


def start(pl, folder, at=-1, *, given=(), each=False, **options):
    with Exact(folder, every_n_steps=3, each=each):
        return Library(pl, at, **options).fit(**dict(given))


def test_what_a_library_trains_resumes_to_the_same_bits_and_says_where(pl, tmp_path, capsys):
    whole = start(pl, tmp_path / "whole")
    for at in (1, 8, 13):
        start(pl, tmp_path / "killed", at)
    assert start(pl, tmp_path / "killed") == whole
    said = capsys.readouterr().err
    assert start(pl, tmp_path / "killed")  # it has ended
    assert "resumes" not in capsys.readouterr().err
    assert said.count(f"resumes at step 6 of epoch 1 from {tmp_path / 'killed'} (saved ") == 1
    assert said.count("resumes at step 12 of epoch 2") == 1
    assert "not guaranteed" not in said


def test_the_bar_of_a_resumed_epoch_begins_at_its_step(pl, tmp_path, capsys):
    start(pl, tmp_path / "run", 8)
    bar = {"enable_progress_bar": True, "bar": [pl.callbacks.TQDMProgressBar]}
    start(pl, tmp_path / "run", **bar)
    printed = capsys.readouterr().out.split("\r")
    assert next(line for line in printed if "7/10" in line).startswith("Epoch 0:  70%")


class SubTrainers:
    """A Trainer of a library's own, one whose `fit` does more."""

    def __init__(self, pl):
        class Own(pl.Trainer):
            def fit(self, *args, **kwargs):
                super().fit(*args, **kwargs)
                self.is_own = True

        self.kind = Own


def test_a_subclass_of_trainer_in_a_thread_is_taken(pl, tmp_path):
    whole = start(pl, tmp_path / "whole", kind=SubTrainers(pl).kind)
    with Exact(tmp_path / "run", every_n_steps=3):
        library = Library(pl, 8, SubTrainers(pl).kind)
        thread = threading.Thread(target=library.fit)
        thread.start()
        thread.join()
    assert start(pl, tmp_path / "run") == whole


def test_a_second_fit_is_a_line_or_a_folder_of_its_own(pl, tmp_path, capsys):
    def twice(folder, at=-1, *, each):
        with Exact(folder, every_n_steps=3, each=each):
            Library(pl).fit()
            second = Library(pl, at)
            return second.fit()

    assert twice(tmp_path / "a", each=False)
    assert "fit number 2 in this block can't resume: Exact(..., each=True) keeps" in (
        capsys.readouterr().err
    )
    whole = twice(tmp_path / "whole", each=True)
    for at in (2, 8):
        twice(tmp_path / "b", at, each=True)
    assert twice(tmp_path / "b", each=True) == whole
    folders = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert folders == ["fit_1", "fit_2"]


def test_what_a_tuner_searches_is_no_training(pl, tmp_path, capsys):
    def tuned(folder, at=-1):
        with Exact(folder, every_n_steps=3):
            library = Library(pl, at)
            data = DataLoader(Rows(160), 16, shuffle=True)
            quiet = {"enable_checkpointing": False, "max_epochs": 2}
            trainer = library.trainer(**quiet)
            library.kill.on_train_batch_end = lambda *args: None
            pl.tuner.Tuner(trainer).lr_find(library.module, data, num_training=8)
            del library.kill.on_train_batch_end
            library.options = quiet
            return library.fit(), library.module.lr

    whole = tuned(tmp_path / "whole")
    tuned(tmp_path / "run", 8)
    assert tuned(tmp_path / "run") == whole
    assert "fit number 2" not in capsys.readouterr().err


def test_from_a_checkpoint_of_ones_own(pl, tmp_path):
    library = Library(pl)
    library.fit()
    trainer = library.trainer()
    trainer.fit(library.module, DataLoader(Rows(160), 16, shuffle=True))
    trainer.save_checkpoint("own.ckpt")
    given = {"given": {"ckpt_path": "own.ckpt", "weights_only": False}, "max_epochs": 4}
    whole = start(pl, tmp_path / "whole", **given)
    for at in (22, 28):
        start(pl, tmp_path / "run", at, **given)
    assert start(pl, tmp_path / "run", **given) == whole


def test_blocks_nest_and_an_error_leaves_nothing(pl, tmp_path, capsys):
    before = {name: tree.Trainer.fit for name, tree in TREES.items()}
    raised = contextlib.suppress(ZeroDivisionError)
    with Exact(tmp_path / "outer", each=True), raised, Exact(tmp_path / "inner"):
        Library(pl).fit()
        _ = 1 / 0
    with Exact(tmp_path / "outer", each=True) as outer:
        Library(pl).fit()
        outer.fit((library := Library(pl)).trainer(), library.module, DataLoader(Rows(32), 16))
    assert {name: tree.Trainer.fit for name, tree in TREES.items()} == before
    assert (tmp_path / "inner" / "checkpoints" / "last.ckpt").exists()
    assert (tmp_path / "outer" / "fit_1" / "checkpoints" / "last.ckpt").exists()
    assert (tmp_path / "outer" / "checkpoints" / "last.ckpt").exists()
    assert "can't resume" not in capsys.readouterr().err


def test_who_wraps_fit_in_a_block_keeps_it(pl, tmp_path, monkeypatch):
    """As a library that logs each training by itself does."""
    calls = []
    with Exact(tmp_path / "run"):
        of_block = pl.Trainer.fit

        def logged(trainer, *args, **kwargs):
            calls.append(trainer)
            return of_block(trainer, *args, **kwargs)

        monkeypatch.setattr(pl.Trainer, "fit", logged)
        Library(pl).fit()
    Library(pl).fit()
    assert len(calls) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    monkeypatch.undo()
    pl.Trainer.fit = next(fit for name, fit in ORIGINALS.items() if TREES[name] is pl)


def test_the_callback_alone_is_a_line_that_says_which_way(pl, tmp_path, capsys):
    library = Library(pl)
    library.kill = Exact(tmp_path / "run")
    library.fit()
    assert "this run can't resume: write `with exact: trainer.fit(...)`" in capsys.readouterr().err
    with library.kill:
        library.fit()
    assert "can't resume" not in capsys.readouterr().err


@pytest.mark.parametrize("way", ["link", "file", "spawn"])
def test_what_can_not_resume_is_refused_in_a_line(pl, tmp_path, way):
    folder, options, said = tmp_path / "run", {}, "spawns processes pickles the trainer"
    if way == "link":
        folder.mkdir()
        (folder / "checkpoints").symlink_to(tmp_path)
        said = "checkpoints: is a link, which is not followed"
    elif way == "file":
        folder.write_text("")
        said = "run: File exists"
    else:
        options = {"strategy": "ddp_spawn", "devices": 2}
    with pytest.raises(ExactError, match=said):
        start(pl, folder, **options)


IMPORTED = """
import sys
from leyden import Exact

with Exact(sys.argv[1]):
    from {tree} import LightningModule, Trainer
    assert Trainer.fit.__wrapped__
assert not hasattr(Trainer.fit, "__wrapped__")
print(sorted({{*sys.modules}} & {{"lightning", "pytorch_lightning"}}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["lightning.pytorch", "pytorch_lightning"])
def test_a_tree_that_is_imported_within_is_taken_and_no_other_is_imported(tree, tmp_path):
    code = IMPORTED.format(tree=tree)
    printed = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True)
    assert printed == f"{[tree.partition('.')[0]]}\n"
