"""Two runs are equal, or from which step on they are not; and a run's row of TensorBoard's HParams table."""

import hashlib

import pytest
from tensorboard.plugins.hparams import api_pb2

from leyden.report import hparams as of_tensorboard
from leyden.report.difference import show_difference
from leyden.report.hparams import HPARAMS_FILE, hparams_of, sort_hparams
from leyden.run.directory import Run
from tests import mistakes
from tests.callbacks.events import best, hparams, metric, row_name, scalars
from tests.conftest import QUICK, SMALL
from tests.report.test_summary import write
from tests.reproduction.conftest import call, commit, make, start  # noqa: F401 - fixtures

FINGERPRINTS = """
1234 1234  =>  0  =>  equal, bit for bit, over all 4 fingerprints that both have, up to step 40
1234 1255  =>  1  =>  diverged: step 30 is the first fingerprint that differs
1234 1255  =>  1  =>  equal until step 20
1234 5234  =>  1  =>  there is no earlier fingerprint
12 1234  =>  0  =>  over all 2 fingerprints that both have, up to step 20
1234 12  =>  1  =>  ends before the other run, at step 20
12 12/7  =>  2  =>  no fingerprints in common
- -  =>  2  =>  no fingerprints in common
"""
OTHERS = [  # of metrics, and of the configuration
    ({"metrics": {"val/acc": 0.5}}, {"metrics": {"val/acc": 0.75}}, 1, "result val/acc 0.5 0.75"),
    (
        {"metrics": {"a": 0.5}},
        {"metrics": {"a": 0.5, "b": 1.0}},
        0,
        "result b 1.0",
    ),  # one was evaluated later
    ({"metrics": {"a": 0.5, "time/x": 1.0}}, {"metrics": {"a": 0.5, "time/x": 2.0}}, 0, "equal"),
    ({"metrics": {"val/acc": float("nan")}}, {"metrics": {"val/acc": float("nan")}}, 0, "equal"),
    ({}, {"config": {"seed": 1}}, 0, "seed"),
]


def of(text):
    digits, _, step = text.partition("/")
    return {"fingerprints": digits.strip("-"), "step": int(step or 10)}


BOTH = [(*map(of, pair.split()), int(code), told) for pair, code, told in mistakes(FINGERPRINTS)]


@pytest.mark.parametrize(("a", "b", "code", "told"), BOTH + OTHERS)
def test_it_says_so(call, make, a, b, code, told):  # noqa: F811
    found, text = call(f"run={make('a', **a)}", f"against={make('b', **b)}")
    assert told in " ".join(text.split())
    assert found == code


def test_data_that_differ_are_named(call, make, capfd):  # noqa: F811
    data = {"a": {"t.csv": "1", "u.csv": "1"}, "b": {"t.csv": "2", "u.csv": "1"}, "c": None}
    a, b, c = (
        make(name, starts=[start("", data=of)], fingerprints=name) for name, of in data.items()
    )
    code, text = call(f"run={a}", f"against={b}")
    assert code == 1
    show_difference(str(a), str(b))
    for each in (text, capfd.readouterr().out):
        assert 'data t.csv "1" "2"' in " ".join(each.split())
        assert "u.csv" not in each
    show_difference(str(a), str(c))
    assert "t.csv" not in capfd.readouterr().out


def test_choices_have_their_types_and_metrics_their_true_values(train):
    """The metrics are those by which a setting may be chosen: none of training, and of the test set."""
    given = {
        "optimizer.lr": 0.02,
        "seed": 3,
        "trainer.max_epochs": 3,
        "objective.metric": "val/loss",
    }
    given |= {
        "objective.mode": "min",
        "trainer.gradient_clip_val": "null",
        "trainer.deterministic": True,
    }
    typed = [f"++{key}={value}" if "." in key else f"{key}={value}" for key, value in given.items()]
    run, *_ = train("a", *SMALL, "callbacks=default", "resume=auto", *typed)
    # Not `trainer.log_every_n_steps`, which changes nothing that is learned.
    given |= {"callbacks": "default", "data.val_size": 59000, "data.batch_size": 100}
    given |= {"data.eval_batch_size": 10000, "model.hidden_sizes": "[16]"}
    chosen, status = hparams(run)
    assert (chosen, status) == (given, api_pb2.STATUS_SUCCESS)
    assert type(chosen["trainer.deterministic"]) is bool
    result, curves, of_best = run.result, scalars(run), ("val/acc", "val/loss")
    assert result.test_metrics
    assert (result.val_samples, run.starts[0]["groups"]["model"]) == (59000, "mlp")
    selecting = {
        each: [(result.best_step, pytest.approx(result.metrics[each]))] for each in of_best
    }
    assert {metric("val", tag): points for tag, points in best(run).items()} == selecting
    for name, (point,) in selecting.items():
        assert point in [(step, pytest.approx(value)) for step, value in curves[name]]
    folder = run.directory.parent
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    assert row_name(run) == f"a ({folder.name} {digest})"  # equal names would be one row
    # The curves have no point more than they had.
    assert [step for step, _ in curves["val/loss"]] == [9, 19, 29]
    run, out, _ = train(
        "b", *QUICK, "trainer.max_epochs=1", "logger=csv", "trainer.limit_train_batches=1.0"
    )
    assert run.result.val_samples == 10000
    assert hparams_of(run)["trainer.limit_train_batches"] == "1.0"
    assert "best epoch" not in out
    assert not list(run.directory.rglob("hparams*"))


def test_a_sweeps_rows_have_readable_names_the_best_first_and_are_as_many_as_its_runs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(of_tensorboard, "root", lambda: tmp_path)
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    losses = [0.3, 0.1, None, *[0.5] * 8]
    for number, loss in enumerate(losses):
        run = sweep / f"lr-{number}-1a2b3c4d"
        write(run, [f"optimizer.lr={number / 7!r}", "seed=1"], value=loss)
        (run / HPARAMS_FILE).parent.mkdir()
        (run / HPARAMS_FILE).touch()
    kept = sweep / "lr-3-1a2b3c4d" / HPARAMS_FILE
    kept.unlink()  # logged by CSV alone
    sort_hparams(sweep)
    shown = {}
    for run in sorted(map(Run, sweep.iterdir()), key=lambda run: run.directory):
        if (run.directory / HPARAMS_FILE).exists():
            shown[row_name(run)] = run.directory.name.split("-")[1]
    assert [shown[name] for name in sorted(shown)][:2] == ["1", "0"]
    assert shown["01 lr=0.1429 (s)"] == "1"
    assert (len(shown), max(shown), kept.exists()) == (10, "11 lr=0.2857 (s)", False)
    monkeypatch.setattr(of_tensorboard, "_write_hparams", None)  # a guard never harms
    sort_hparams(sweep)
    assert "the order of TensorBoard's HParams failed (TypeError)" in capsys.readouterr().err
