"""A run as one file: the same bytes each time, and nothing but that comes out of it, whoever has made it."""

import functools
import json
import os
import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocrate.rocrate import ROCrate

from leyden.config.mistakes import UserError
from leyden.run import bundle, crate
from leyden.run.bundle import pack, unpack
from leyden.run.directory import Run
from leyden.run.result import Result

LICENSE = "https://creativecommons.org/licenses/by/4.0/"
RESULT = Result("finished", (), {"val/acc": 0.5}, epochs=1, optimizer_steps=10, seconds=1.0, samples_per_second=1.0)
START = {
    "time": "2026-11-24T12:00:00+00:00",
    "python": "3.11.7",
    "versions": {"torch": "2.10", "lightning": "2.6.6"},
}
START |= {"overrides": [], "git": {"sha": "ab12", "dirty": True, "diff": "+1", "left_out": []}}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    (run.directory / "checkpoints").mkdir(parents=True)
    (run.directory / "config.yaml").write_text(yaml.safe_dump({"name": "x"}))
    (run.directory / "provenance.json").write_text(json.dumps([START]))
    (run.directory / "curves.png").write_bytes(b"picture")
    (run.directory / "notes.txt").write_text("mine")
    run.end(RESULT)
    for name in ("best", "last"):
        torch.save({"a": torch.ones(2)}, run.directory / "checkpoints" / f"{name}.ckpt")
    return run


@pytest.fixture
def packed(run, tmp_path):
    pack(run, path := tmp_path / "x.zip", onnx=None, license_url=LICENSE)
    return path


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_there_and_back(run, packed, tmp_path):
    unpack(packed, tmp_path / "new")
    found = files(run.directory)
    assert files(tmp_path / "new") == {
        name: found[name] for name in found if name not in ("notes.txt", "checkpoints/last.ckpt")
    }
    assert Run(tmp_path / "new").result == RESULT
    (tmp_path / "empty").mkdir()
    unpack(packed, tmp_path / "empty")
    assert files(tmp_path / "empty") == files(tmp_path / "new")


def test_the_same_run_gives_the_same_bytes(run, tmp_path, monkeypatch):
    (run.directory / "another.png").write_bytes(b"picture")
    pack(run, packed := tmp_path / "x.zip", onnx=None, license_url=LICENSE)
    unpack(packed, tmp_path / "new")
    with zipfile.ZipFile(packed) as archive:
        told = {(info.date_time, info.create_system, info.external_attr >> 16) for info in archive.infolist()}
    assert told == {((1980, 1, 1, 0, 0, 0), 3, stat.S_IFREG | 0o644)}
    listed = Path.iterdir  # in any order
    for directory, reverse in ((run.directory, True), (tmp_path / "new", False)):
        monkeypatch.setattr(Path, "iterdir", lambda path, reverse=reverse: sorted(listed(path), reverse=reverse))
        for path in directory.rglob("*"):
            os.utime(path, (1e9, 1e9))
            path.chmod(0o700)
        pack(Run(directory), tmp_path / "again.zip", onnx=None, license_url=LICENSE)
        assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_the_manifest_is_an_ro_crate(run, tmp_path):
    (tmp_path / "some.onnx").write_bytes(b"network")
    pack(run, path := tmp_path / "x.zip", onnx=tmp_path / "some.onnx", license_url=LICENSE)
    found = ROCrate(path)
    assert found.version == "1.1"
    assert (found.name, found.license["@id"]) == ("A training run of x", LICENSE)
    assert found.datePublished.date().isoformat() == "2026-11-24"
    assert "val/acc 0.5" in found.description
    with zipfile.ZipFile(path) as archive:
        named = {info.filename: info for info in archive.infolist()}
        assert {file.id for file in found.data_entities} == {*named} - {crate.NAME}
    for file in found.data_entities:
        assert file["contentSize"] == str(named[file.id].file_size)
        assert len(file["sha256"]) == 64
        assert file["encodingFormat"].count("/") == 1
    action = found.get("#training")
    assert action.type == "CreateAction"
    assert found.root_dataset["mentions"] == action
    assert {each["version"] for each in action["instrument"]} == {"ab12", "3.11.7", "2.10", "2.6.6"}
    assert {each.id for each in action["object"]} == {"config.yaml", "provenance.json"}
    assert {"model.onnx", "checkpoints/best.ckpt", "curves.png"} < {each.id for each in action["result"]}
    pack(run, path, onnx=None, license_url=None)
    assert "license" not in ROCrate(path).root_dataset.properties()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run.end(replace(RESULT, status="failed")), r"has not ended well \(failed\)"),
        (lambda run: (run.directory / "result.json").unlink(), "there is no result.json"),
        (lambda run: (run.directory / "provenance.json").write_text("[]"), "does not tell when"),
        (lambda run: (run.directory / "provenance.json").write_text('[{"overrides": [], "time": 3}]'), "does not"),
        (lambda run: (run.directory / "checkpoints" / "best.ckpt").unlink(), "best.ckpt"),
        (lambda run: (run.directory / "a.png").symlink_to("curves.png"), "is a link"),
        (lambda run: [(run.directory / f"{n}.png").touch() for n in range(200)], "more than 200"),
    ],
)
def test_a_run_that_can_not_be_handed_on(run, tmp_path, spoil, message):
    spoil(run)
    with pytest.raises(UserError, match=message):
        pack(run, tmp_path / "x.zip", onnx=None, license_url=None)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("x.zip")]


def rewritten(packed, change, told=True):
    """A bundle with other entries, and a manifest that fits them, if it is `told`."""
    with zipfile.ZipFile(packed) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    entries = change(entries)
    if told:
        kept = [(info, content) for info, content in entries if info.filename != crate.NAME]
        graph = [crate._file(info.filename, content_of(content)) for info, content in kept]
        manifest = next(info for info, _ in entries if info.filename == crate.NAME)
        entries = [*kept, (manifest, json.dumps({"@graph": graph}).encode())]
    with zipfile.ZipFile(packed, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)


def content_of(content):
    return crate.Content(len(content), bundle.hashlib.sha256(content).hexdigest())


def add(name, content=b"x", **attributes):
    def change(entries):
        info = zipfile.ZipInfo(name)
        for key, value in attributes.items():
            setattr(info, key, value)
        return [*entries, (info, content)]

    return change


def without(name):
    return lambda entries: [entry for entry in entries if entry[0].filename != name]


def other(name, content):
    return lambda entries: [(info, content if info.filename == name else old) for info, old in entries]


def many(entries):
    return [*entries, *((zipfile.ZipInfo(f"{n}.png"), b"") for n in range(200))]


NAMES = ["/etc/x.png", "../x.png", "a/../../x.png", "C:x.png", "..\\x.png", "\\\\host\\x.png", ".x.png", "x.py"]
NAMES += [
    "checkpoints/last.ckpt",
    "checkpoints/",
    "sub/x.png",
    "result_1.json",
    "trust.yaml",
    "x.png\n",
    "x" * 300 + ".png",
]
LINK = (stat.S_IFLNK | 0o777) << 16
HOSTILE = [
    *((functools.partial(rewritten, change=add(name)), "which is no file of a bundle") for name in NAMES),
    (functools.partial(rewritten, change=add("x.png", b"/etc/passwd", external_attr=LINK)), "is a link"),
    (
        functools.partial(rewritten, change=add("x.png", b"0" * 2**20, compress_type=zipfile.ZIP_DEFLATED)),
        "compressed",
    ),
    (functools.partial(rewritten, change=many), "more than 200"),
    (functools.partial(rewritten, change=add("CURVES.png")), "twice"),
    (functools.partial(rewritten, change=without("checkpoints/best.ckpt")), "holds no checkpoints/best.ckpt"),
    (functools.partial(rewritten, change=without(crate.NAME), told=False), f"holds no {crate.NAME}"),
    (functools.partial(rewritten, change=add("x.png"), told=False), "differ in x.png"),
    (functools.partial(rewritten, change=without("curves.png"), told=False), "differ in curves.png"),
    (functools.partial(rewritten, change=other("curves.png", b"PICTURE"), told=False), "damaged or changed"),
    (functools.partial(rewritten, change=other("curves.png", b"longer picture"), told=False), "damaged or changed"),
    *(
        (functools.partial(rewritten, change=other(crate.NAME, text), told=False), "is no manifest")
        for text in (b"", b"[]", b'{"@graph": 3}', b'{"@graph": [{"@type": "File"}]}', b"[" * 1800, b"\xff")
    ),
    (lambda packed: packed.write_bytes(b""), "not a zip"),
    (lambda packed: packed.write_bytes(packed.read_bytes()[:-100]), "is refused"),
    (lambda packed: packed.write_bytes(packed.read_bytes().replace(b"picture", b"pictura")), "CRC"),
    (lambda packed: packed.unlink(), "is no file"),
    (lambda packed: (packed.unlink(), packed.mkdir()), "is no file"),
    (lambda packed: (packed.unlink(), os.mkfifo(packed)), "is no file"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_what_a_stranger_has_put_in_is_refused_and_nothing_is_left(packed, tmp_path, change, message):
    change(packed)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as refused:
        unpack(packed, tmp_path / "new")
    assert len(str(refused.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("attribute", "value", "message"), [("file_size", 2**40, "more than"), ("flag_bits", 1, "encrypt")]
)
def test_what_the_archive_says_of_itself_is_not_believed(packed, tmp_path, attribute, value, message):
    with zipfile.ZipFile(packed, "a") as archive:
        setattr(archive.getinfo("checkpoints/best.ckpt"), attribute, value)
        archive.comment = b"so that it is written anew"
    with pytest.raises(UserError, match=message):
        unpack(packed, tmp_path / "new")


def test_a_text_that_is_too_long(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_BYTES", 10)
    with pytest.raises(UserError, match="more than 10"):
        unpack(packed, tmp_path / "new")


def test_a_file_twice(packed, tmp_path):
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.yaml", "name: y")
    with pytest.raises(UserError, match="twice"):
        unpack(packed, tmp_path / "new")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_damaged_bundle_is_refused_or_gives_the_same_files(run, packed, tmp_path, data):
    whole = packed.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(st.sampled_from([whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]]))
    (tmp_path / "damaged.zip").write_bytes(damaged)
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    try:
        unpack(tmp_path / "damaged.zip", tmp_path / "new")
    except UserError:
        assert not (tmp_path / "new").exists()
    else:
        there = files(run.directory)
        assert all(content == there[name] for name, content in files(tmp_path / "new").items())


def test_a_directory_that_is_there_is_left_alone(packed, run, tmp_path):
    before = files(run.directory)
    for place in (run.directory, packed, tmp_path / "nowhere" / "new"):
        with pytest.raises(UserError, match="can't be unpacked there"):
            unpack(packed, place)
    assert files(run.directory) == before
    assert not (tmp_path / "nowhere").exists()
