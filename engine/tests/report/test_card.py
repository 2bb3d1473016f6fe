"""A model card has what the records of a run have, and no more."""

import dataclasses

import pytest

from leyden.config.errors import UserError
from leyden.run.directory import Run
from tests.training.test_start import train  # noqa: F401 - a fixture


def test_it_has_results_settings_and_data_and_no_path(cli, train):  # noqa: F811
    run, *_ = train("outputs/mnist_mlp/run", "callbacks=bare", "trainer.max_epochs=2", "objective.metric=train/acc")
    code, out, err = cli("export", f"run={run.directory}", "format=card")
    assert code == 0, err
    assert str(run.directory / "model_card.md") in out
    card = (run.directory / "model_card.md").read_text()
    for text in (
        "library_name: leyden",
        "- model: `MLP`",
        "The weights are those of epoch 2 of 2, the best by train/acc.",
        f"| `val/acc` | val | {run.result.metrics['val/acc']:.4g} |",
        f"| `test/acc` | test | {run.result.metrics['test/acc']:.4g} |",
        "test evaluations by mnist_mlp so far: 1",
        "`trainer.max_epochs=2`",
        run.starts[-1]["versions"]["torch"],
        *run.starts[-1]["data"].values(),
    ):
        assert text in card, text
    for text in (str(run.directory), run.starts[-1]["host"], run.starts[-1]["directory"]):
        assert text not in card


def test_what_has_not_ended_has_none(cli, train, monkeypatch):  # noqa: F811
    run, *_ = train("run", "callbacks=bare", "trainer.max_epochs=1")
    (run.directory / "result.json").unlink()
    code, _, err = cli("export", f"run={run.directory}", "format=card")
    assert code == 2
    assert "has not ended" in err
    assert not (run.directory / "model_card.md").exists()


def test_a_format_or_file_that_can_not_be(cli, train):  # noqa: F811
    run, *_ = train("run", "callbacks=bare", "trainer.max_epochs=1")
    for arguments, message in (
        (("format=pdf",), "format=pdf: must be one of onnx, card"),
        (("format=card", f"output={run.directory / 'card.txt'}"), "must be the name of a .md file"),
    ):
        code, _, err = cli("export", f"run={run.directory}", *arguments)
        assert code == 2
        assert message in err


def test_a_strangers_words_are_no_markup_and_a_failed_run_has_no_card(train):  # noqa: F811
    from leyden.report.card import model_card

    run, *_ = train("run", "callbacks=bare", "trainer.max_epochs=1")

    class Strange(Run):
        result = dataclasses.replace(
            run.result, metrics={"a`|\n# b": 1.0}, stages={"val": ["a`|\n# b"]}, objectives=()
        )

    assert "| `a/\\n# b` | val | 1 |" in model_card(Strange(run.directory))

    class Failed(Run):
        result = dataclasses.replace(run.result, status="failed")

    with pytest.raises(UserError, match="has not ended"):
        model_card(Failed(run.directory))
