"""Data whose splits differ from process to process are refused, and a line says which split."""

from tests.training.test_start_exact import stopping

ARGUMENTS = (
    "task=own",
    "task._target_=tests.strangers.plain.Plain",
    "data=own",
    "callbacks=bare",
    "callbacks.checkpoint.keep_all=true",
    "trainer.max_epochs=2",
)


def of(name, *more):
    return (*ARGUMENTS, f"data._target_=tests.strangers.stand_ins.{name}", *more)


def test_another_validation_split_refuses_a_resume_and_an_evaluation_and_is_announced_of_a_fork(
    train, cli, tmp_path
):
    with stopping(11):
        train("a", *of("SplitBySystem"), code=1)
    _, _, err = train("a", *of("SplitBySystem"), code=2)
    assert "the data differ from those that it was trained on: first batch of val" in err
    train("a", *of("SplitBySystem"), "exact=off")
    code, _, err = cli("evaluate", f"run={tmp_path / 'a'}")
    assert code == 2
    assert "first batch of val differs from that in training" in err
    _, _, err = train("b", *ARGUMENTS[3:5], f"fork={tmp_path / 'a'}@1", "trainer.max_epochs=3")
    assert "fork: the data differ" in err


def test_other_batches_of_a_loader_of_the_modules_own_are_announced_at_their_first_step(train):
    arguments = of("SplitBySystem", "+data.is_trained=true", "task._target_=tests.strangers.stand_ins.SecondLoader")
    with stopping(11):
        train("a", *arguments, code=1)
    _, _, err = train("a", *arguments)
    assert "parts from the interrupted run at step 9" in err
