"""What guards a run never ends it: what can't be looked at, kept or restored is named in a line, and the run goes on."""

import pytest

from tests.conftest import assert_same_bits
from tests.strangers.cells import ASIDE, FEW
from tests.training.test_start_exact import stopping

DATA = "tests.strangers.plain.PlainData"
GUARDED = "tests.strangers.guarded."
CALLBACK = f"+callbacks.mine._target_={GUARDED}RaisingCallback"
RESTORED = "module.keeper (RuntimeError: of another version) can't be restored from the checkpoint"
# The module, its data, more overrides; what is said at the first checkpoint, and when it resumes.
ROWS = {
    "looked at": (
        "Raises",
        DATA,
        (),
        ["module.system (NotImplementedError: ", "module.cache (a lock) change and"],
        [],
    ),
    "restored": ("RaisesWhenRestored", DATA, (), [RESTORED], [RESTORED]),
    "metric": ("WithRaisingMetric", DATA, (), ["module.mean (RuntimeError: not synced) can't be looked at"], []),
    "data": ("Counts", f"{GUARDED}WithRaisingRows", (), [], []),
    "callback": ("Counts", DATA, (CALLBACK,), [], []),
}


def typed(module, data=DATA, *more):
    return (*FEW, "task=own", f"task._target_={GUARDED}{module}", "data=own", f"data._target_={data}", *more)


def announced(err):
    return [line for line in err.splitlines() if "exact resume is not guaranteed" in line]


def told(err):
    return [line for line in err.splitlines() if not any(words in line for words in ASIDE)]


@pytest.mark.parametrize("name", ROWS)
def test_what_raises_is_named_once_and_the_run_goes_on(train, name):
    module, data, more, saved, restored = ROWS[name]
    arguments = typed(module, data, *more)
    whole, _, err = train("whole", *arguments, "test=true")
    for words in saved:
        assert sum(words in line for line in announced(err)) == 1, err
    assert len(announced(err)) == bool(saved)
    with stopping(13):
        train("stopped", *arguments, "test=true", code=1)
    stopped, _, err = train("stopped", *arguments, "test=true", "resume=must")
    for words in restored:
        assert sum(words in line for line in announced(err)) == 1, err
    assert_same_bits(whole.directory, stopped.directory)


@pytest.mark.parametrize("name", ["looked at", "metric"])
def test_required_it_is_an_error_in_a_line(train, name):
    module, data, more, *_ = ROWS[name]
    _, _, err = train("a", *typed(module, data, *more), "exact=require", code=2)
    (line,) = told(err)
    assert "exact=require: module." in line


def test_what_is_set_when_training_ends_is_there_in_the_test(train):
    arguments = typed("Counts")
    run, _, err = train("a", *arguments, "task._target_=tests.strangers.stand_ins.SWAG", "test=true")
    assert run.result.metrics["test/factor"] == 2.0
    (line,) = told(err)
    assert line.startswith("leyden: module.factors changed after the last checkpoint")


def test_a_large_tensor_that_setup_makes_is_in_no_checkpoint(train):
    run, *_ = train(
        "a", *typed("Counts"), "task._target_=tests.strangers.stand_ins.MadeInSetup", "+task.num=5000000"
    )
    assert max(path.stat().st_size for path in (run.directory / "checkpoints").glob("*.ckpt")) < 1_000_000
