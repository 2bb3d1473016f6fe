"""Files that come from somebody else do nothing but what they say: they run no code, write nowhere, and hang nothing."""

import itertools
import json
import secrets
import zipfile

import pytest
import torch

from leyden.base.errors import UserError
from leyden.base.paths import find_project
from leyden.exact.files import damage
from leyden.run.directory import Run
from leyden.run.files import parse_json
from leyden.run.lock import is_held
from leyden.run.record import read_summary
from tests import records
from tests.conftest import QUICK, finish, here, start
from tests.run.conftest import use


class Payload:
    def __reduce__(self):
        return open, (self.path, "w")


def poison(checkpoint, path):
    content = torch.load(checkpoint, weights_only=True)
    payload = Payload()
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


def nested(num):
    """A pickle of a dict, whose key is a tuple of twice the same tuple, and so on: it takes centuries to hash."""
    twice = [b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(num)]
    return b"\x80\x02}N" + b"".join(twice) + b"Ns."


def filled_later(num):
    """Lists in lists, twice each, that are filled when all are there."""
    made = [b"]q" + bytes([n]) for n in range(num)]
    get = [b"h" + bytes([n]) for n in range(num)]
    return (
        b"\x80\x02"
        + b"".join([*made, *(a + b + b"a" + b + b"a0" for a, b in itertools.pairwise(get))])
        + b"."
    )


PICKLES = {
    "nested": nested(45),
    "filled later": filled_later(45),
    "itself": b"\x80\x02]q\x00h\x00a.",
}
PICKLES |= {"many": b"\x80\x02" + b"]" * 2**17 + b".", "large": b"\x80\x02" + b"N0" * 2**25 + b"N."}


@pytest.mark.parametrize("name", PICKLES)
def test_a_checkpoint_that_would_take_for_ever_is_refused(tmp_path, name, own, cli, monkeypatch):
    monkeypatch.setattr("leyden.exact.files.MAX_CONTAINERS", 2**16)
    best = own / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(best, "w") as archive:
        for entry, content in (("best/data.pkl", PICKLES[name]), ("best/version", b"3\n")):
            archive.writestr(entry, content)
    commands = [use("evaluate", own)]
    if name == "nested":
        commands.append(("train", f"run_dir={tmp_path / 'new'}", f"init_from={own}", *QUICK))
    for command in commands:
        code, _, err = cli(*command)
        assert code == 2, err
        assert err.count("\n") == 1, err
        assert f"{best}: is refused: " in err, err
    assert "is refused" in damage(best.rename(best.with_name("BEST.ckpt")))


def test_what_a_few_values_fill_is_refused_within_a_second(tmp_path):
    for name, num_bytes in (
        ("job.json", 2**40),
        ("run.json", 2**27),
        ("starts.json", 2**27),
        (".lock.0", 2**40),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(num_bytes)
    for read in (
        lambda: Run(tmp_path).submission,
        lambda: Run(tmp_path).record,
        lambda: read_summary(str(tmp_path)),
    ):
        with pytest.raises(UserError, match=r"can't be read \(is larger than 64 MiB\)"):
            read()
    assert not is_held(tmp_path / "none")
    assert is_held(tmp_path)  # by nobody that is known, until its file does not change
    with pytest.raises(ValueError, match="has more than 1,048,576 values"):
        parse_json(f"[{'[],' * 2**20}0]")
    text = json.dumps(['[{,\\"' * 2**20])
    assert parse_json(text) == json.loads(text)  # which are no values


ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def test_nothing_in_a_run_directory_steers_the_terminal(own, cli, tmp_path, capfd):
    result = records.content(own)
    result |= {"error": {"type": ESCAPE, "message": ESCAPE}, "status": f"finished{ESCAPE}"}
    result["metrics"] = {f"val/{ESCAPE}": 1.0, "val/acc": 0.5}
    starts = records.starts(own)
    starts[0]["overrides"] = [f"model.{ESCAPE}=1", f"seed={ESCAPE}"]
    config = {**records.config(own), "name": ESCAPE}
    records.put(own, config=config, starts=starts, result=result)
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
    arguments = (
        f"run_dir={tmp_path / 'run'}",
        f"outputs={tmp_path}",
        *QUICK,
        "trainer.max_epochs=1",
    )
    url = f"https://me:{secret}@example.org/x.git"
    of_git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "remote.origin.url",
        "GIT_CONFIG_VALUE_0": url,
    }
    finish(start(*arguments, WANDB_API_KEY=secret, AWS_SECRET_ACCESS_KEY=secret, **of_git))
    assert not [
        path for path, content in records.files(tmp_path).items() if secret.encode() in content
    ]


def test_a_run_directory_is_no_project(tmp_path):
    """Its own code would be executed, in place of a module of Python's."""
    for folder in (tmp_path, tmp_path / "run"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "train.yaml").touch()
    assert find_project(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "run.json").touch()
    assert find_project(tmp_path / "run") == tmp_path
