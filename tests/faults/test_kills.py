"""Killed at any file operation and started again, a run shows what one that was never killed shows."""

import random
import shutil

import pytest

from leyden.run.directory import Run
from tests.callbacks.events import hparams
from tests.faults.kills import shown, train

pytestmark = pytest.mark.faults


class StoppedError(OSError):
    pass


def failing():
    """Let a training fail in its second epoch."""
    from leyden.tasks.classification import Classification

    step = Classification.training_step

    def failing_step(self, batch):
        if self.global_step == 9:
            raise StoppedError("the disk is gone")
        return step(self, batch)

    Classification.training_step = failing_step


def moments(num_operations, num, rng):
    """Places to kill at, pairs of an operation and whether after it; all that there are, or so many of them."""
    every = [(n, after) for n in range(num_operations) for after in (False, True)]
    return sorted(rng.sample(every, min(num, len(every))))


def differences(a, b):
    """What two runs show differently, in short lines."""
    found = []
    for key in a:
        there, here = (
            set(map(str, shown[key].items() if isinstance(shown[key], dict) else shown[key])) for shown in (a, b)
        )
        if a[key] != b[key]:
            found.append(f"{key}: lost {sorted(there - here)}, new {sorted(here - there)}"[:500])
    return found


class Kills:
    """Runs that are killed at one or several moments, compared with one that was not."""

    def __init__(self, folder, seed, *arguments):
        self.folder, self.seed, self.arguments = folder, seed, arguments
        self.failures, self.num = [], 0

    def whole(self):
        code, self.operations, output = train(self.folder / "whole", *self.arguments)
        assert code == 0, output
        self.expected = shown(self.folder / "whole")

    def kill(self, *moments, begun=None, setup=None):
        """Kill at each of the moments, in a start each, then let it end, and compare."""
        directory = self.folder / f"killed{self.num}"
        self.num += 1
        if begun:
            shutil.copytree(begun, directory)
        history = []
        for n, after in moments:
            code, operations, output = train(directory, *self.arguments, at=n, after=after, setup=setup)
            at = operations[-1] if operations else "it had ended"
            history.append(f"{'after' if after else 'before'} {n} ({at})")
            assert code in (-9, 0, 2), output  # it can have ended before
        try:
            code, _, output = train(directory, *self.arguments)
            assert code == 0, output
            problems = differences(self.expected, {**shown(directory), "texts": self.expected["texts"]})
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            self.failures.append(
                "\n".join([f"FAULTS_SEED={self.seed}, killed {', then '.join(history)}", *problems])
            )
        shutil.rmtree(directory)

    def end(self):
        print(f"{self.num} trials, {len(self.failures)} failed")
        assert not self.failures, "\n\n".join(self.failures)


@pytest.fixture
def kills(tmp_path, seed, data):
    made = Kills(tmp_path, seed, *data)
    made.whole()
    return made


def test_killed_once(kills, trials, seed):
    for moment in moments(len(kills.operations), trials, random.Random(seed)):
        kills.kill(moment)
    kills.end()


def test_killed_again_and_again(kills, trials, seed):
    rng = random.Random(seed)
    for _ in range(min(trials // 4, 200)):
        # The end of a run is short, and there most that is written is not checked by a checkpoint.
        kills.kill(
            *(
                (int(len(kills.operations) * rng.random() ** rng.choice((1, 0.2))), rng.random() < 0.5)
                for _ in "abc"
            )
        )
    kills.end()


def test_killed_while_it_trains_longer(kills, trials, seed):
    first = kills.folder / "whole"
    kills.arguments = (*kills.arguments, "trainer.max_epochs=3")
    shutil.copytree(first, kills.folder / "begun")
    kills.whole()  # goes on
    for moment in moments(len(kills.operations), trials // 4, random.Random(seed)):
        kills.kill(moment, begun=kills.folder / "begun")
    kills.end()


def test_killed_while_it_fails(kills, trials, seed):
    rng = random.Random(seed)
    code, operations, output = train(kills.folder / "failing", *kills.arguments, setup=failing)
    assert code == 2, output
    run = Run(kills.folder / "failing" / "run")
    assert run.result.status == hparams(run)[0]["status"] == "failed"
    for n, after in moments(16, trials // 4, rng):
        never = (10**6, False)  # it fails once more, then it goes on
        kills.kill((len(operations) - 1 - n, after), *rng.choice(([], [never])), setup=failing)
    kills.end()
