"""A run is resumed by its directory alone: its record knows what was typed, its data, and its note."""

import hashlib
import shlex
import shutil

import pytest
import torch

from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.fork import recorded_arguments
from tests import mistakes, records
from tests.conftest import QUICK, weights
from tests.training.test_start_exact import assert_same_run

TYPED = (*QUICK, "model.dropout=0.2", "callbacks.checkpoint.every_n_steps=3")


def test_it_ends_with_the_bits_of_a_run_that_was_typed_whole(train):
    whole, *_ = train("whole", *TYPED, "trainer.max_epochs=2")
    run, *_ = train("run", *TYPED, "trainer.max_epochs=1")
    of_one_epoch = weights(run.directory)["network.layers.1.weight"]
    before = records.files(run.directory)
    _, out, _ = train("run")
    assert "has finished already" in out
    assert records.files(run.directory) == before
    _, _, err = train("run", "trainer.max_epochs=2")
    assert f"leyden: {run.directory}: as recorded, with {shlex.join(TYPED)}" in err
    assert_same_run(whole, run)
    assert run.result.epochs == 2
    assert run.starts[0]["result"]["epochs"] == 1
    assert [start["step"] for start in run.starts] == [0, 10]
    assert dict(flatten(run.config)) == dict(flatten(whole.config))
    # Typed as a whole it is the same run, in any order; another setting makes another one.
    for again in (
        (*TYPED, "trainer.max_epochs=2"),
        ("trainer.max_epochs=2", *reversed(TYPED)),
        ("seed=0",),
    ):
        _, out, _ = train("run", *again)
        assert "has finished already" in out
    _, _, err = train("run", "optimizer.lr=0.5", code=2)
    assert "holds a run with different settings: optimizer.lr: 0.001 there, 0.5 here" in err
    assert "choose another run_dir, or type the values that are there, as optimizer.lr=..." in err
    of_another_key = 'data.eval_batch_size="${data.batch_size}"'  # it is kept as it is given
    other, *_ = train("other", *TYPED, "seed=1", of_another_key, "trainer.max_epochs=1")
    assert of_another_key in other.overrides
    assert other.config["data"]["eval_batch_size"] == 100
    assert not torch.equal(weights(other.directory)["network.layers.1.weight"], of_one_epoch)


def test_other_threads_and_lost_checkpoints_are_said(train):
    train("run", *QUICK, "trainer.max_epochs=1")
    run, _, err = train("run", "trainer.max_epochs=2")
    assert "the last bits" not in err
    starts = records.starts(run.directory)
    threads = starts[-1]["machine"]["threads"]
    starts[-1]["machine"]["threads"] += 1
    records.put(run.directory, starts=starts)
    _, _, err = train("run", "trainer.max_epochs=3")
    assert (
        f"threads {threads}, was {threads + 1}; the last bits may differ from those of the start before"
        in err
    )
    assert "trained anew" not in err
    shutil.rmtree(run.directory / "checkpoints")
    _, _, err = train("run", "trainer.max_epochs=4")
    assert (
        "run: has finished, but no checkpoint is left to resume from, so it is trained anew\n"
        in err
    )


def test_a_job_of_a_sweep_that_is_resumed_alone_does_not_see_the_test_set(train, tmp_path):
    train("run", *QUICK, "trainer.max_epochs=1")
    (tmp_path / "sweep.json").write_text('{"format": 1}')
    run, _, err = train("run", "trainer.max_epochs=2", "test=auto")
    assert "holds no run" not in err
    assert not run.result.is_tested
    assert train("run", "test=true")[0].result.is_tested


TABLE = """task=regression data=table data.dataset.file=houses.csv data.dataset.targets=price data.normalize=none
model.hidden_sizes=[4] callbacks=bare trainer=cpu trainer.log_every_n_steps=3 test=false"""


def test_a_run_is_not_resumed_on_changed_data_and_all_else_is_announced(
    command, tmp_path, small_root
):
    run = tmp_path / "run"
    path = tmp_path / "houses.csv"
    whole = (small_root / path.name).read_bytes()
    path.write_bytes(whole)
    typed = (f"run_dir={run}", *TABLE.split(), f"data.root={path.parent}")
    command("train", *typed, "trainer.max_epochs=1")
    differ = "the data differ from those that it was trained on: houses.csv"
    _, err = command("evaluate", f"run={run}")
    assert differ not in err
    before = records.files(run)
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])  # a digit near the end
    err = command("train", *typed, "trainer.max_epochs=2", code=2)[1]
    assert err.count("\n") == 1
    assert f"{differ}; restore those data" in err
    assert records.files(run) == before
    fork = (f"run_dir={tmp_path / 'fork'}", f"fork={run}", "trainer.max_epochs=2")
    _, err = command("train", *fork)
    assert f"fork: the data differ from those of {run}: houses.csv" in err
    _, err = command("evaluate", f"run={run}")
    assert f"{run}: {differ}\n" in err
    path.write_bytes(whole)
    command("train", *typed, "trainer.max_epochs=2")
    digests = {"houses.csv": hashlib.sha256(whole).hexdigest()}
    assert [start["data"] for start in Run(run).starts] == [digests, digests]


def test_a_path_is_that_of_the_first_start(tmp_path):
    """Not one of the folder in which the run is resumed."""
    (tmp_path / "tables").mkdir()
    config = {"seed": 0, "init_from": f"{tmp_path}/gone", "data": {"root": f"{tmp_path}/tables"}}
    typed = ["data.root=tables", "init_from=gone", "outputs=other"]
    records.put(tmp_path, config=config, starts=[{"overrides": typed, "directory": str(tmp_path)}])
    found = recorded_arguments(["seed=1", f"run_dir={tmp_path}"])
    whole = [f"data.root={tmp_path}/tables", f"init_from={tmp_path}/gone"]
    assert found[:4] == [*whole, f"outputs={tmp_path}/other", "seed=1"]


def test_a_name_that_is_mistyped_is_said(tmp_path, capsys):
    alone = [f"run_dir={tmp_path / 'ran'}", "trainer.max_epochs=9"]
    for typed, is_said in ((alone, True), ([*alone, "seed=1"], False)):
        assert recorded_arguments(typed) == typed
        assert ("ran: holds no run, so a new one begins" in capsys.readouterr().err) == is_said


RECORDED = mistakes("""
a.b=1 seed=2  =>    =>  a.b=1 seed=2
a.b=1 seed=2  =>  seed=3  =>  a.b=1 seed=3
optimizer=sgd optimizer.momentum=0.5  =>  optimizer=adam  =>  optimizer=adam
cluster=slurm sweep_name=x outputs=/o exact=require  =>    =>  exact=require outputs=/o
fork=outputs/a@3 seed=1  =>  seed=2  =>  fork=outputs/a@3 seed=2
+callbacks/stopping=early  =>  ~callbacks/stopping  =>  +callbacks/stopping=early ~callbacks/stopping
note=x tags=[a]  =>  note=y  =>  note=y
""")


@pytest.mark.parametrize(("recorded", "typed", "composed"), RECORDED)
def test_what_is_recorded_comes_first(tmp_path, recorded, typed, composed):
    starts = [{"overrides": ["seed=7"]}, {"overrides": recorded.split()}]
    records.put(tmp_path, config={"seed": 0}, starts=starts)
    typed = [*typed.split(), f"run_dir={tmp_path}"]
    found = recorded_arguments(typed)
    assert " ".join(sorted(found[:-1])) == composed
    assert found[len(found) - len(typed) :] == typed
    assert recorded_arguments(found) == found  # as Lightning's other processes do


def test_a_note_is_found_and_changed(train, command, tmp_path):
    def found(condition):
        return command("runs", str(tmp_path), f"where={condition}")[0]

    run, *_ = train("run", *QUICK, "trainer.max_epochs=1", "note=wider layers", "tags=[moe,x]")
    assert "wider layers #moe #x" in found("tags~moe and note~wide")
    assert "no run matches" in found("tags~mo")  # a tag is a whole word
    command("note", f"run={run.directory}", "note=narrow")
    train("run", "trainer.max_epochs=2")
    assert "narrow #moe #x" in found("note=narrow")
    train("run", "trainer.max_epochs=3", "note='a, [b: #1'", "tags=[y]")
    assert "a, [b: #1 #y" in found("tags~y")
    train("run")  # by its record
    command("note", f"run={run.directory}", "note=null", "tags=[]")
    assert run.config["note"] is None
    assert run.config["tags"] == []
    _, out, _ = train("run", "note=after the end")
    assert "has finished already" in out
    assert run.config["note"] == "after the end"
    assert run.config["tags"] == []
