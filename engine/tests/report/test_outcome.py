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
    a = make("a", starts=[start("", data={"t.csv": "1", "u.csv": "1"})], fingerprints="a")
    b = make("b", starts=[start("", data={"t.csv": "2", "u.csv": "1"})], fingerprints="b")
    c = make("c", starts=[start("", data=None)], fingerprints="c")
    code, text = call(f"run={a}", f"against={b}")
    assert code == 1
    show_difference(str(a), str(b))
    for each in (text, capfd.readouterr().out):
        assert 'data t.csv "1" "2"' in " ".join(each.split())
        assert "u.csv" not in each
    show_difference(str(a), str(c))
    assert "t.csv" not in capfd.readouterr().out


def test_choices_have_their_types_and_metrics_their_true_values(train):
    """The metrics are those by which a setting may be chosen: of validation alone."""
    given = {
        "callbacks": "default",
        "seed": 3,
        "optimizer.lr": 0.02,
        "trainer.max_epochs": 3,
        "trainer.gradient_clip_val": "null",
        "trainer.deterministic": True,
        "objective.metric": "val/loss",
        "objective.mode": "min",
    }
    typed = [f"++{key}={value}" if "." in key else f"{key}={value}" for key, value in given.items()]
    run, *_ = train("a", *SMALL, "resume=auto", *typed)
    # Not `trainer.log_every_n_steps`, which changes nothing that is learned.
    given |= {
        "data.val_size": 59000,
        "data.batch_size": 100,
        "data.eval_batch_size": 10000,
        "model.hidden_sizes": "[16]",
    }
    chosen, status = hparams(run)
    assert chosen == given
    assert status == api_pb2.STATUS_SUCCESS
    assert type(chosen["trainer.deterministic"]) is bool
    result = run.result
    assert result.test_metrics
    assert result.val_samples == 59000
    assert run.starts[0]["groups"]["model"] == "mlp"
    found = {metric("val", tag): points for tag, points in best(run).items()}
    assert {*found} == {"val/acc", "val/loss"}
    curves = scalars(run)
    for name, points in found.items():
        assert points == [(result.best_step, pytest.approx(result.metrics[name]))]
        assert points[0] in curves[name]
    # The curves have no point more than they had.
    assert [step for step, _ in curves["val/loss"]] == [9, 19, 29]
    folder = run.directory.parent
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    assert row_name(run) == f"a ({folder.name} {digest})"  # equal names would be one row


def test_a_run_by_csv_alone_has_no_row_of_tensorboard(train):
    typed = ("trainer.max_epochs=1", "logger=csv", "trainer.limit_train_batches=1.0")
    run, out, _ = train("b", *QUICK, *typed)
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
    left_out = sweep / "lr-3-1a2b3c4d" / HPARAMS_FILE
    left_out.unlink()  # logged by CSV alone
    sort_hparams(sweep)
    assert not left_out.exists()
    shown = []
    for path in sweep.glob(f"*/{HPARAMS_FILE}"):
        name = path.relative_to(sweep).parts[0]
        _, number, _ = name.split("-")
        shown.append((row_name(Run(sweep / name)), number))
    shown.sort()
    assert len(shown) == 10
    assert shown[0] == ("01 lr=0.1429 (s)", "1")
    assert shown[1][1] == "0"
    assert shown[-1][0] == "11 lr=0.2857 (s)"
    monkeypatch.setattr(of_tensorboard, "_write_hparams", None)  # a guard never harms
    sort_hparams(sweep)
    assert "the order of TensorBoard's HParams failed (TypeError)" in capsys.readouterr().err
