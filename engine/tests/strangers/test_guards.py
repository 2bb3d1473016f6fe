"""What guards a run never ends it: what can't be looked at, kept or restored is named in a line, and the run goes on."""

from tests.conftest import assert_same_bits
from tests.strangers.cells import ASIDE, FEW
from tests.training.test_start_exact import stopping

GUARDED = "tests.strangers.guarded."
CALLBACK = f"+callbacks.mine._target_={GUARDED}RaisingCallback"
SAVED = (
    "module.mean (RuntimeError: not synced) can't be looked at",
    "module.system (NotImplementedError: ",
    "module.cache (a lock) change and",
)


def typed(*more, module=f"{GUARDED}Raises", data=f"{GUARDED}WithRaisingRows"):
    return (*FEW, "task=own", f"task._target_={module}", "data=own", f"data._target_={data}", CALLBACK, *more)


def test_what_raises_is_named_once_and_the_run_goes_on(train):
    whole, _, err = train("whole", *typed("test=true"))
    for words in SAVED:
        assert sum(words in line for line in err.splitlines()) == 1, err
    with stopping(13):
        train("stopped", *typed("test=true"), code=1)
    stopped, _, err = train("stopped", *typed("test=true", "resume=must"))
    assert err.count("module.keeper (RuntimeError: of another version)") == 1, err
    assert_same_bits(whole.directory, stopped.directory)


def test_required_it_is_an_error_in_a_line(train):
    _, _, err = train("a", *typed("exact=require"), code=2)
    (line,) = [line for line in err.splitlines() if not any(words in line for words in ASIDE)]
    assert "exact=require: module." in line


def test_what_is_set_when_training_ends_is_there_in_the_test(train):
    run, _, err = train("a", *typed("test=true", module="tests.strangers.stand_ins.SWAG"))
    assert run.result.metrics["test/factor"] == 2.0
    assert "leyden: module.factors changed after the last checkpoint" in err


def test_a_large_tensor_that_setup_makes_is_in_no_checkpoint(train):
    run, *_ = train("a", *typed("+task.num=5000000", module="tests.strangers.stand_ins.MadeInSetup"))
    assert max(path.stat().st_size for path in (run.directory / "checkpoints").glob("*.ckpt")) < 1_000_000
