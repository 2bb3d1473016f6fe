"""Files that come from somebody else do nothing but what they say: they run no code, write nowhere, and hang nothing."""

import json
import os
import secrets
import shutil
import zipfile

import pytest
import torch
from PIL import Image

from leyden.config.paths import find_project
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.scheduler import slurm
from tests import records
from tests.conftest import QUICK, finish, here, start
from tests.records import forget_result

VERBS = ("evaluate", "predict", "export")


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

    def call(verb, *more):
        inputs = (f"images={image(tmp_path)}",) if verb == "predict" else ()
        code, out, err = cli(verb, f"run={run.directory}", *inputs, *more)
        return code, out + err

    return call


def poison(checkpoint, path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "payload": Payload(path)}, checkpoint)


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_a_checkpoint_with_a_pickle_payload_is_refused(run, cli, put_to_use, tmp_path, verb):
    for name in ("best", "last"):
        poison(run.directory / "checkpoints" / f"{name}.ckpt", tmp_path / "executed")
    forget_result(run.directory)
    if verb == "train":
        code, _, text = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=1")
    else:
        code, text = put_to_use(verb)
    assert code == 2
    assert "best.ckpt is refused" in text or "last.ckpt is refused" in text
    assert not (tmp_path / "executed").exists()


def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(path)
    return path


# What a run directory of somebody else makes of files outside.


@pytest.mark.parametrize(
    "name",
    ["config.yaml.tmp", "run.json.tmp", "metrics.csv", "val", "best/hparams.tfevents", ".lock", "checkpoints"],
)
def test_a_link_in_a_run_directory_is_not_written_through(run, cli, tmp_path, name):
    is_folder = name in ("val", "checkpoints", "config.yaml.tmp")
    path, mine = run.directory / name, tmp_path / "mine"
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rename(tmp_path / "before")
    path.unlink(missing_ok=True)
    if is_folder:
        before = tmp_path / "before"
        shutil.copytree(before if before.exists() else run.directory / "checkpoints", mine)
    else:
        mine.write_text("precious")
    path.symlink_to(mine)
    content = {each: each.read_bytes() for each in [mine, *mine.rglob("*")] if each.is_file()}
    code, _, err = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=2")
    assert code == 2
    assert f"{name}: is a link" in err
    assert {each: each.read_bytes() for each in [mine, *mine.rglob("*")] if each.is_file()} == content


def test_an_export_replaces_a_link(run, put_to_use, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for name in ("model.onnx", ".model.onnx", "model.onnx.tmp"):
        (run.directory / name).symlink_to(tmp_path / "mine")
    code, text = put_to_use("export")
    assert code == 0, text
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (run.directory / "model.onnx").is_symlink()


# What keeps a command waiting.


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "checkpoints/best.ckpt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_keeps_nobody_waiting(run, cli, tmp_path, name, kind):
    path = run.directory / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    code, _, err = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=2")
    assert (code, len(err.strip().splitlines()) <= 2) == (2, True) or (kind, code) == ("folder", 0), err
    if name != "config.yaml":
        for verb in VERBS:
            inputs = (f"images={image(tmp_path)}",) if verb == "predict" else ()
            code, _, err = cli(verb, f"run={run.directory}", *inputs)
            assert code == 2, err
            assert len(err.strip().splitlines()) <= 2


def test_a_checkpoint_that_grows_is_refused(run, put_to_use):
    path = run.directory / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    code, text = put_to_use("predict")
    assert code == 2
    assert "claims to hold more bytes than it has" in text


@pytest.mark.parametrize("kind", ["pipe", "device", "bomb"])
def test_an_image_that_is_none(run, cli, tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        Image.new("1", (12_000, 12_000)).save(path)
    code, _, err = cli("predict", f"run={run.directory}", f"images={path}")
    assert code == 2
    assert "not a PNG, JPEG or WebP image that can be read" in err


def laughs():
    """A list of a thousand million numbers, which takes no memory until somebody looks at them all."""
    numbers = [1.0] * 10
    for _ in range(8):
        numbers = [numbers] * 10
    return numbers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", laughs),
        ("mean", ["x"]),
        ("class_names", ["a"]),
        ("num_classes", "x"),
        ("input_shape", [10**6, 10**6, 10**6]),
        ("input_shape", [1, -28]),
    ],
)
def test_facts_that_are_none_are_refused(run, put_to_use, key, value):
    best = run.directory / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"][key] = value() if callable(value) else value
    torch.save(content, best)
    code, text = put_to_use("predict")
    assert code == 2
    assert "best.ckpt: has no facts of the data" in text


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2]])
def test_a_file_of_tensors_that_is_no_checkpoint_is_named(run, put_to_use, content):
    torch.save(content, run.directory / "checkpoints" / "best.ckpt")
    code, text = put_to_use("predict")
    assert code == 2
    assert "best.ckpt: not the checkpoint of a run" in text


# What reaches the terminal, and what is written down.

ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def test_nothing_in_a_run_directory_steers_the_terminal(run, cli, put_to_use, tmp_path, capfd):
    result = json.loads((run.directory / "run.json").read_text())
    error = {"type": ESCAPE, "message": ESCAPE}
    result.update(status=f"finished{ESCAPE}", error=error, metrics={f"val/{ESCAPE}": 1.0, "val/acc": 0.5})
    starts = run.starts
    starts[0]["overrides"] = [f"model.{ESCAPE}=1", f"seed={ESCAPE}"]
    records.put(run.directory, config={**run.recorded, "name": ESCAPE}, starts=starts, result=result)
    best = run.directory / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"]["class_names"] = [f"{n}{ESCAPE}" for n in range(10)]
    torch.save(content, best)
    printed = [
        put_to_use("predict"),
        put_to_use("evaluate"),
        cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=1")[1:],
        cli("train", f"run_dir={tmp_path / 'x'}", f"name='{ESCAPE}'")[1:],
        here("summarize", str(run.directory)) and "",
        capfd.readouterr(),
    ]
    for text in ["".join(map(str, texts)) for texts in printed]:
        assert not {"\x1b", "\x07", "\u202e"} & set(text), ascii(text)


def test_no_secret_of_the_environment_is_written_down(tmp_path, mnist_root):
    secret = secrets.token_hex()  # not one that stands here: the run keeps changes of the code
    arguments = (f"run_dir={tmp_path / 'run'}", f"outputs={tmp_path}", *QUICK, "trainer.max_epochs=1")
    finish(
        start(
            *arguments,
            WANDB_API_KEY=secret,
            AWS_SECRET_ACCESS_KEY=secret,
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0="remote.origin.url",
            GIT_CONFIG_VALUE_0=f"https://me:{secret}@example.org/x.git",
        )
    )
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


def test_what_is_no_number_or_job_is_not_read(tmp_path):
    (tmp_path / "fingerprint.csv").write_text("step,a,b,c\n" + "9" * 5000 + f",{'a' * 32},{'b' * 32},{'c' * 32}\n")
    assert read_fingerprints(tmp_path) == {}
    assert slurm.states(["a\0b", "\ud800", "5; rm"]) == {}
