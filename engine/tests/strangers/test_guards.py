"""What guards a run never ends it: what can't be looked at, kept or restored is named in a line, and the run goes on."""

import random
import threading

import lightning as L
import torchmetrics

from tests.conftest import assert_same_bits
from tests.strangers.cells import ASIDE, FEW
from tests.strangers.plain import Plain, PlainData, Rows, own
from tests.training.test_start_exact import stopping


class Lazy:
    """A package that is not installed, as MONAI's lazy imports: it raises its own error, whatever it is asked for."""

    def __getattr__(self, name):
        raise ImportError("install it")


class Lazier:
    def __getattribute__(self, name):
        raise ImportError("install it")


class Keeper:
    num = 0

    def state_dict(self):
        return {"num": self.num}

    def load_state_dict(self, state):
        raise RuntimeError("of another version")


class RaisingMetric(torchmetrics.MeanMetric):
    @property
    def metric_state(self):
        raise RuntimeError("not synced")


class Raises(Plain):
    def __init__(self):
        super().__init__()
        self.factor, self.keeper, self.mean = 1.0, Keeper(), RaisingMetric()
        self.missing, self.missings = Lazy(), {"package": Lazier()}
        self.system, self.cache = random.SystemRandom(), {}

    def train_loss(self, batch, batch_idx):
        self.factor += 0.1
        self.keeper.num += 1
        self.cache["last", batch_idx] = threading.Lock()  # as gpytorch's caches, of what can't be pickled
        return self.loss(batch) * self.factor


class RaisingRows(Rows):
    def __init__(self, num=40, seed=0):
        super().__init__(num, seed)
        self.missing, self.num_read = Lazier(), 0

    def __getitem__(self, index):
        self.num_read += 1
        inputs, targets = super().__getitem__(index)
        return inputs * (1 + 0.001 * self.num_read), targets


class WithRaisingRows(PlainData):
    kind = RaisingRows


class RaisingCallback(L.Callback):
    def __init__(self):
        self.missing = Lazier()


CALLBACK = "+callbacks.mine._target_=tests.strangers.test_guards.RaisingCallback"
SAVED = (
    "module.mean (RuntimeError: not synced) can't be looked at",
    "module.system (NotImplementedError: ",
    "module.cache (a lock) change and",
)


def typed(*more, module="test_guards.Raises"):
    return (*FEW, *own(module, "test_guards.WithRaisingRows"), CALLBACK, *more)


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
    run, _, err = train("a", *typed("test=true", module="stand_ins.SWAG"))
    assert run.result.metrics["test/factor"] == 2.0
    assert "leyden: module.factors changed after the last checkpoint" in err


def test_a_large_tensor_that_setup_makes_is_in_no_checkpoint(train):
    run, *_ = train("a", *typed("+task.num=5000000", module="stand_ins.MadeInSetup"))
    assert max(path.stat().st_size for path in (run.directory / "checkpoints").glob("*.ckpt")) < 1_000_000
