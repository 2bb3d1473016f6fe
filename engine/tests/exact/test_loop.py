"""`Loop`: a plain loop that resumes to the same bits, without Lightning."""

import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden.exact import ExactError, Loop
from leyden.exact.digest import digest_of_content
from tests import ENGINE
from tests.conftest import here
from tests.exact.test_fit import Drawn, KilledError, Popping, Rows


class Noisy(Rows):
    def __init__(self, num=160):
        super().__init__(num)
        self.rng = np.random.default_rng(3)

    def __getitem__(self, index):
        inputs, targets = super().__getitem__(index)
        return inputs + random.random() + self.rng.random() + torch.rand(()), targets


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.last, self.seen = nn.Linear(8, 1), 0

    def forward(self, inputs):
        self.seen += 1
        return self.last(self.layers(inputs))[:, 0] * (1 + self.seen / 100)


class Best:
    """An object with a state, and an attribute that it has not."""

    def __init__(self):
        self.value, self.count = 9.0, 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class NoState(list):
    pass


def with_a_sampler():
    rows = Noisy()
    return DataLoader(rows, 16, sampler=Popping(rows))


LOADERS = {
    "shuffled": lambda: DataLoader(Noisy(), 16, shuffle=True),
    "workers": lambda: DataLoader(Rows(160), 16, shuffle=True, num_workers=1),
    "sampler": with_a_sampler,
    "stream": lambda: DataLoader(Drawn(), 16),
    "list": lambda: NoState(DataLoader(Rows(160), 16)),
}


def train(folder, loader="shuffled", *, at=-1, calls=1, accumulate=1, exact="report", seed=0):
    torch.manual_seed(seed)
    model, best, data = Net(), Best(), LOADERS[loader]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
    kept = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "best": best}
    loop = Loop(folder, seed=seed, every_n_steps=4, log_every_n_steps=3, exact=exact, **kept)
    losses = []
    while loop.epoch < 3:
        for step, (inputs, targets) in loop.steps(data, epochs=loop.epoch + 1 if calls > 1 else 3):
            loss = ((model(inputs) - targets) ** 2).mean()
            loss.backward()
            if step % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
            if step == 15:
                model.last.bias.requires_grad_(False)
            best.value, best.count = min(best.value, loss.item()), best.count + 1
            loop.log(step, loss=loss)
            losses.append(loss.item())
            if step == at:
                raise KilledError
        if calls > 1:
            best.value -= random.random()  # a validation
    return digest_of_content([kept, model.seen, best.count]), losses


@pytest.mark.parametrize(
    ("loader", "more"),
    [
        *((loader, {}) for loader in LOADERS),
        ("shuffled", {"calls": 3, "accumulate": 3}),
    ],
)
def test_killed_it_ends_in_the_same_bits(tmp_path, loader, more, capsys):
    whole, losses = train(tmp_path / "whole", loader, **more)
    for at in (2, 10, 19, 23):
        with pytest.raises(KilledError):
            train(tmp_path / "killed", loader, at=at, **more)
    bits, last = train(tmp_path / "killed", loader, exact="require", **more)
    assert bits == whole
    assert losses[-len(last) :] == last
    said = capsys.readouterr().err
    assert ("can't resume within an epoch" in said) == (loader == "list")
    assert "resumes at step " in said
    assert train(tmp_path / "killed", loader, **more)[0] == whole or more


def test_what_parts_and_what_can_not_be_kept_is_announced(tmp_path, capsys, monkeypatch):
    with pytest.raises(KilledError):
        train(tmp_path, at=14)
    monkeypatch.setattr(Net, "forward", lambda net, x: net.last(net.layers(x))[:, 0] * 3)
    train(tmp_path)
    said = capsys.readouterr().err
    assert "parts from the interrupted run at step 13 (loss " in said
    monkeypatch.undo()
    forward = Net.forward

    def streaming(net, inputs):
        net.it = iter([1])
        return forward(net, inputs)

    monkeypatch.setattr(Net, "forward", streaming)
    with pytest.raises(ExactError, match=r"model\.it \(the position of an iterator"):
        train(tmp_path / "b", exact="require")


def test_what_is_wrong_is_refused_in_a_line(tmp_path):
    net = Net()
    for option, value in (("seed", -1), ("exact", "yes"), ("every_n_steps", 0)):
        with pytest.raises(ValueError, match=f"{option}={value}: must be "):
            Loop(tmp_path, **{option: value})
    with pytest.raises(ValueError, match="scale: a float has no state_dict and load_state_dict"):
        Loop(tmp_path, scale=0.5)
    with pytest.raises(KilledError):
        train(tmp_path / "run", at=9)
    with pytest.raises(ExactError, match="trained with seed 0, and this start has 1"):
        train(tmp_path / "run", seed=1)
    with pytest.raises(
        ExactError, match="has model, optimizer, scheduler, best, and this start model"
    ):
        Loop(tmp_path / "run", model=net)


def test_who_leaves_the_loop_leaves_signals_as_they_were(tmp_path):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    for _ in Loop(tmp_path, model=Net()).steps(DataLoader(Rows(32), 16), epochs=1):
        break
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert after == before


ALONE = """
import sys
for name in ("lightning", "pytorch_lightning", "torchmetrics", "lightning_utilities"):
    sys.modules[name] = None
import torch
from leyden.exact import Loop
data = torch.utils.data.DataLoader(torch.rand(32, 2), 4)
for step, batch in Loop(sys.argv[1], model=torch.nn.Linear(2, 1)).steps(data, epochs=1):
    pass
print(step)
"""


@pytest.mark.slow
def test_it_needs_pytorch_alone(tmp_path):
    printed = subprocess.check_output([sys.executable, "-c", ALONE, str(tmp_path)], text=True)
    assert printed == "8\n"


LOOP = ENGINE / "tests" / "testing" / "exact_loop.py"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_it_marks_its_steps_also_under_torchrun(tmp_path, capsys, processes):
    command = [sys.executable, str(LOOP)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, str(LOOP)]
    assert here("resumetest", "--", *command, "{dir}") == 0
    assert "the same bits in all 30 steps" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_ends(tmp_path, number):
    command = [sys.executable, str(LOOP), str(tmp_path / "run"), "--stop", str(int(number))]
    assert subprocess.run(command, check=False).returncode == 128 + number
    command = [sys.executable, str(LOOP), str(tmp_path / "run")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "resumes at step 11 of epoch 2" in done.stderr
    assert "not guaranteed" not in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "steps.jsonl").read_text()
