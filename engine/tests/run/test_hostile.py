"""Files that come from somebody else do nothing but what they say: they run no code, write nowhere, and hang nothing."""

import json
import secrets
import shutil

import pytest
import torch
from PIL import Image

from leyden.config.paths import find_project
from leyden.run.directory import Run
from tests import records
from tests.conftest import QUICK, finish, here, start
from tests.records import forget_result


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def run(trained, tmp_path):
    """A finished run of one epoch, to be damaged."""
    return Run(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def put_to_use(run, cli, tmp_path):
    """Calls a command on the run; returns its exit code and all that it printed."""

    def call(verb):
        Image.new("L", (28, 28)).save(tmp_path / "image.png")
        inputs = {"train": (*QUICK, "trainer.max_epochs=1"), "predict": (f"images={tmp_path / 'image.png'}",)}
        key = "run_dir" if verb == "train" else "run"
        code, out, err = cli(verb, f"{key}={run.directory}", *inputs.get(verb, ()))
        return code, out + err

    return call


def poison(checkpoint, path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "payload": Payload(path)}, checkpoint)


def test_a_checkpoint_with_a_pickle_payload_is_refused(run, put_to_use, tmp_path):
    paths = {name: run.directory / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    for path in paths.values():
        poison(path, tmp_path / "executed")
    forget_result(run.directory)
    for verb, name in (("train", "last"), ("evaluate", "best"), ("predict", "best")):
        refusal = f"leyden: {paths[name]} is refused: it holds more than tensors and plain values\n"
        assert put_to_use(verb) == (2, refusal), verb
    assert not (tmp_path / "executed").exists()


ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def test_nothing_in_a_run_directory_steers_the_terminal(run, cli, put_to_use, tmp_path, capfd):
    result = json.loads((run.directory / "run.json").read_text())
    error = {"type": ESCAPE, "message": ESCAPE}
    result.update(status=f"finished{ESCAPE}", error=error, metrics={f"val/{ESCAPE}": 1.0, "val/acc": 0.5})
    starts = run.starts
    starts[0]["overrides"] = [f"model.{ESCAPE}=1", f"seed={ESCAPE}"]
    records.put(run.directory, config={**run.config, "name": ESCAPE}, starts=starts, result=result)
    best = run.directory / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"]["class_names"] = [f"{n}{ESCAPE}" for n in range(10)]
    torch.save(content, best)
    printed = [text for verb in ("predict", "evaluate", "train") for _, text in [put_to_use(verb)]]
    printed += cli("train", f"run_dir={tmp_path / 'x'}", f"name='{ESCAPE}'")[1:]
    here("summarize", str(run.directory))
    for text in (*printed, *capfd.readouterr()):
        assert not {"\x1b", "\x07", "\u202e"} & set(text), ascii(text)


@pytest.mark.slow(minutes=0.2)
def test_no_secret_of_the_environment_is_written_down(tmp_path, mnist_root):
    secret = secrets.token_hex()  # not one that stands here: the run keeps changes of the code
    arguments = (f"run_dir={tmp_path / 'run'}", f"outputs={tmp_path}", *QUICK, "trainer.max_epochs=1")
    url = f"https://me:{secret}@example.org/x.git"
    of_git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url", "GIT_CONFIG_VALUE_0": url}
    finish(start(*arguments, WANDB_API_KEY=secret, AWS_SECRET_ACCESS_KEY=secret, **of_git))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_a_run_directory_is_no_project(tmp_path):
    """Its own code would be executed, in place of a module of Python's."""
    for folder in (tmp_path, tmp_path / "run"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "train.yaml").touch()
    assert find_project(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "run.json").touch()
    assert find_project(tmp_path / "run") == tmp_path
