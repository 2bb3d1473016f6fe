"""What a training works on is deleted, moved or replaced meanwhile: a line says so, and nothing is made half anew."""

import functools
import shutil
import time

import pytest

from leyden.run.directory import Run
from tests.conftest import assert_same_bits
from tests.faults.commands import Started, at_operation, at_step, call, ends_clearly

pytestmark = pytest.mark.faults


class Place:
    """A folder with data and outputs of its own, and the run in it."""

    def __init__(self, folder, small_files, data):
        self.folder, self.outputs, self.data = folder, folder / "outputs", folder / "data"
        self.run = self.outputs / "name" / "run"
        shutil.copytree(small_files / "MNIST", self.data / "MNIST")
        self.arguments = (f"run_dir={self.run}", f"outputs={self.outputs}", *data[1:], f"data.root={self.data}")

    def content(self):
        """Names of the files in the run directory; TensorBoard's thread can make a last one, which it opens by name."""
        return sorted(path.name for path in self.run.rglob("*") if path.is_file() and "tfevents" not in path.name)


def remove(folder):
    """As `rm -r` again and again: threads of the training may be writing."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def rename_run(place):
    place.run.rename(place.run.with_name("moved"))


def replace_run(place):
    remove(place.run)
    place.run.write_text("something else")


def begin_another(place):
    """Move the run, and let another process begin it anew in its place."""
    rename_run(place)
    (place.folder / "moved").touch()
    wait_for(place.folder / "begun")


def wait_for(path):
    while not path.exists():
        time.sleep(0.001)


HAPPENS = {
    "run removed": lambda place: remove(place.run),
    "run renamed": rename_run,
    "run replaced": replace_run,
    "checkpoints removed": lambda place: remove(place.run / "checkpoints"),
    "data removed": lambda place: remove(place.data),
    "outputs removed": lambda place: remove(place.outputs),
}


@pytest.mark.parametrize("happens", HAPPENS)
def test_what_a_training_works_on_vanishes(tmp_path, small_files, data, whole, trials, rng, happens):
    for _ in range(max(1, trials // 20)):
        place, number = Place(tmp_path / "place", small_files, data), rng.randrange(8, whole.num_operations)
        before = at_operation(place.run, number, functools.partial(HAPPENS[happens], place))
        code, output = call("train", *place.arguments, directory=tmp_path, before=before)
        told = f"{happens} at {number}: {code}\n{output}"
        assert ends_clearly(code, output), told
        if happens in ("run removed", "run renamed", "outputs removed") and code:
            assert place.content() == [], told
        if happens == "run replaced":
            assert place.run.read_text() == "something else", told
        if happens in ("checkpoints removed", "data removed"):
            shutil.copytree(small_files / "MNIST", place.data / "MNIST", dirs_exist_ok=True)
            code, output = call("train", *place.arguments, directory=tmp_path)
            assert code == 0, f"{told}\nThen: {output}"
            if Run(place.run).result.status == "finished" and (place.run / "checkpoints" / "last.ckpt").exists():
                assert_same_bits(whole.run, place.run)
        shutil.rmtree(place.folder)


def test_another_training_takes_the_place(tmp_path, small_files, data, whole, trials, rng):
    for _ in range(max(1, trials // 10)):
        place, number = Place(tmp_path / "place", small_files, data), rng.randrange(12)
        # Within a step: a check and what is written next are one moment.
        before = at_step(number, functools.partial(begin_another, place))
        first = Started("train", *place.arguments, directory=tmp_path, before=before, name="first")
        wait_for(place.folder / "moved")
        begin = at_operation(place.run, rng.randrange(20, 100), (place.folder / "begun").touch)
        second = Started("train", *place.arguments, directory=tmp_path, before=begin, name="second")
        (code, output), (second_code, second_output) = first.end(), second.end()
        told = f"at step {number}: {code}, {second_code}\n{output}\n{second_output}"
        assert second_code == 0, told
        assert ends_clearly(code, output), told
        run = Run(place.run)
        assert len(run.starts) == 1, told
        strays = [path for path in run.directory.glob("*/events*") if f".{run.starts[0]['pid']}." not in path.name]
        assert len(strays) <= 1, told  # TensorBoard's thread opens its file by name for each event, a last one too
        assert_same_bits(whole.run, place.run)
        lines = [len((each / "metrics.csv").read_text().splitlines()) for each in (run.directory, whole.run)]
        assert lines[0] == lines[1], told
        shutil.rmtree(place.folder)
