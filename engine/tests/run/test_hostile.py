"""Files that come from somebody else do nothing but what they say: they run no code, write nowhere, and hang nothing."""

import secrets

import pytest
import torch

from leyden.config.paths import find_project
from tests import records
from tests.conftest import QUICK, finish, here, start
from tests.run.conftest import use


class Payload:
    def __reduce__(self):
        return open, (self.path, "w")


def poison(checkpoint, path):
    content, payload = torch.load(checkpoint, weights_only=True), Payload()
    payload.path = str(path)
    torch.save({**content, "payload": payload}, checkpoint)


def test_a_checkpoint_with_a_pickle_payload_is_refused(own, cli, tmp_path):
    paths = {name: own / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    for path in paths.values():
        poison(path, tmp_path / "executed")
    records.forget_result(own)
    for verb, name in (("train", "last"), ("evaluate", "best"), ("predict", "best")):
        refusal = f"leyden: {paths[name]} is refused: it holds more than tensors and plain values\n"
        assert cli(*use(verb, own)) == (2, "", refusal), verb
    assert not (tmp_path / "executed").exists()


ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def test_nothing_in_a_run_directory_steers_the_terminal(own, cli, tmp_path, capfd):
    result = records.content(own)
    result |= {"error": {"type": ESCAPE, "message": ESCAPE}, "status": f"finished{ESCAPE}"}
    result["metrics"] = {f"val/{ESCAPE}": 1.0, "val/acc": 0.5}
    result["starts"][0]["overrides"] = [f"model.{ESCAPE}=1", f"seed={ESCAPE}"]
    records.put(own, config={**result["config"], "name": ESCAPE}, starts=result["starts"], result=result)
    best = own / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"]["class_names"] = [f"{n}{ESCAPE}" for n in range(10)]
    torch.save(content, best)
    commands = [use(verb, own) for verb in ("predict", "evaluate", "train")]
    commands.append(("train", f"run_dir={tmp_path / 'x'}", f"name='{ESCAPE}'"))
    printed = [text for command in commands for text in cli(*command)[1:]]
    here("summarize", str(own))
    for text in (*printed, *capfd.readouterr()):
        assert not {"\x1b", "\x07", "\u202e"} & set(text), ascii(text)


@pytest.mark.slow(minutes=0.2)
def test_no_secret_of_the_environment_is_written_down(tmp_path, mnist_root):
    secret = secrets.token_hex()  # not one that stands here: the run keeps changes of the code
    arguments = (f"run_dir={tmp_path / 'run'}", f"outputs={tmp_path}", *QUICK, "trainer.max_epochs=1")
    url = f"https://me:{secret}@example.org/x.git"
    of_git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url", "GIT_CONFIG_VALUE_0": url}
    finish(start(*arguments, WANDB_API_KEY=secret, AWS_SECRET_ACCESS_KEY=secret, **of_git))
    assert not [path for path, content in records.files(tmp_path).items() if secret.encode() in content]


def test_a_run_directory_is_no_project(tmp_path):
    """Its own code would be executed, in place of a module of Python's."""
    for folder in (tmp_path, tmp_path / "run"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "train.yaml").touch()
    assert find_project(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "run.json").touch()
    assert find_project(tmp_path / "run") == tmp_path
