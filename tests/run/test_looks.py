"""The list of looks at the test set: any kill leaves a sound one, and any edit shows."""

import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.run.directory import Run
from leyden.run.looks import HEADER, NAME, read_looks, record_look

OLD = b"2026-01-01T00:00:00+00:00,x,/old,best,{}\r\n"  # of an engine without chains
OLDER_LIST = HEADER.replace(b",chain", b"") + OLD * 2


def made(folder, name="x"):
    run = Run(folder / "run")
    run.directory.mkdir(exist_ok=True, parents=True)
    (run.directory / "config.yaml").write_text(yaml.safe_dump({"name": name}))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs"))


def look(folder, run, value=0.5):
    return record_look(str(folder), run, "best", {"test/acc": value})


def looks_of(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).write_bytes(content)
        return read_looks(Path(folder))


def written(run, num, before=b"", cuts=()):
    """The bytes of a list of `num` looks, each cut at a part of its write, where it has one: as a kill leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAME
        path.write_bytes(before)
        for n in range(num):
            there = path.read_bytes()
            look(folder, run, n)
            if n in dict(cuts):
                write = path.read_bytes()[len(there) :]
                path.write_bytes(there + write[: int(dict(cuts)[n] * len(write))])
        return path.read_bytes()


cuts = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1, exclude_max=True)), max_size=4)


@settings(max_examples=40)
@given(st.integers(1, 6), st.sampled_from([b"", OLDER_LIST, OLDER_LIST[:-30], OLDER_LIST[:20]]), cuts)
def test_whatever_is_killed_the_list_is_sound_and_the_next_look_goes_on(run, num, before, cuts):
    content = written(run, num, before, cuts)
    assert looks_of(content).broken == []
    after = looks_of(written(run, 1, content))
    assert after.broken == []
    assert len(after.chains - looks_of(content).chains) == 1


@pytest.mark.parametrize("before", [b"", OLDER_LIST, HEADER], ids=["new", "old", "header"])
def test_a_kill_at_each_byte_of_a_write(run, before):
    whole = written(run, 1, before)
    for end in range(len(before), len(whole) + 1):
        content = whole[:end]
        assert looks_of(content).broken == [], end
        after = looks_of(written(run, 1, content))
        assert after.broken == [], end
        assert after.rows[0][:5] == ["time", "experiment", "run", "checkpoint", "metrics"], end
        assert len(after.chains) == 1 + (end >= len(whole) - 2), end  # all but the end of the line


@given(st.data(), st.sampled_from([b"", OLDER_LIST]), cuts)
def test_each_edit_shows(run, data, before, cuts):
    """A line that is removed, changed or moved, of whatever engine, or torn; the last one is told of below."""
    content = written(run, 6, before, [(n, part) for n, part in cuts if n < 5])
    lines = re.findall(rb"[^\n]*\n", content)  # a lone \r, of a line that was torn before its \n, ends none
    kind = data.draw(st.sampled_from(["remove", "change", "swap", "double", "insert"]))
    n = data.draw(st.integers(0, len(lines) - 2))
    if kind == "remove":
        del lines[n]
    elif kind == "change":
        at = data.draw(st.integers(0, len(lines[n]) - 2))  # without its end, it and the next one are one line
        new = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[n][at]))
        lines[n] = lines[n][:at] + bytes([new]) + lines[n][at + 1 :]
    elif kind == "swap":
        m = data.draw(st.integers(0, len(lines) - 1).filter(lambda m: lines[m] != lines[n]))
        lines[n], lines[m] = lines[m], lines[n]
    else:
        lines.insert(n, lines[n] if kind == "double" else OLD)
    assert looks_of(b"".join(lines)).broken


def test_a_change_of_the_last_line_shows(run):
    content = written(run, 3)
    for n in range(len(content) - len(content.splitlines(keepends=True)[-1]), len(content) - 2):
        changed = looks_of(content[:n] + (b"!" if content[n : n + 1] != b"!" else b"?") + content[n + 1 :])
        # Without its chain it is a line that was torn: the run that it was written for knows better.
        assert changed.broken == [4] or len(changed.chains) == 2


@pytest.mark.parametrize("num", [2, 3])
def test_the_line_that_was_changed_is_named(run, num):
    lines = written(run, 4).splitlines(keepends=True)
    lines[num - 1] = lines[num - 1].replace(b"test/acc", b"test/ACC")
    assert looks_of(b"".join(lines)).broken == [num]


def test_a_line_that_is_gone_is_missed_by_its_chain(run, tmp_path):
    _, first = look(tmp_path, run)
    _, last = look(tmp_path, run)
    assert first.outputs == last.outputs == str(tmp_path)
    assert read_looks(tmp_path).chains == {first.chain, last.chain}
    path = tmp_path / NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert read_looks(tmp_path).broken == []
    assert read_looks(tmp_path).chains == {first.chain}


def test_an_older_list_goes_on_and_counts(run, tmp_path):
    (tmp_path / NAME).write_bytes(OLDER_LIST)
    assert look(tmp_path, run)[0] == 3
    content = (tmp_path / NAME).read_bytes()
    assert content.startswith(OLDER_LIST)
    assert looks_of(content.replace(b"/old", b"/new", 1)).broken == [4]


def test_a_run_with_a_strange_name_has_one_line(tmp_path):
    run = made(tmp_path / "a\nb,\udcff")
    assert [look(tmp_path, run)[0] for _ in range(2)] == [1, 2]
    assert read_looks(tmp_path).broken == []
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 3


def test_there_is_no_list(tmp_path):
    found = read_looks(tmp_path)
    assert (found.count("x"), found.broken, found.chains) == (0, [], set())
