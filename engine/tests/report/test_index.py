"""The index of runs: whatever happens to the runs and to it, a report is the same as without it."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leyden import compare, summarize
from leyden.config.paths import PROJECT
from leyden.report import index, listing, records
from leyden.report.index import Contents
from tests.report.test_summary import OBJECTIVE, write

NUM = 3
METRIC = OBJECTIVE["metric"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Runs of a sweep, all in the index, which even a single change makes anew."""
    folder = tmp_path / "outputs"
    for number in range(NUM):
        write(
            folder / "s" / f"r{number}", [f"optimizer.lr={10.0**-number}", f"seed={number}"], value=0.5 + number / 8
        )
        (folder / "s" / f"r{number}" / "checkpoints").mkdir()
    write(folder / "s" / "open", ["seed=9"], status=None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index._key.cache_clear()
    monkeypatch.setattr(index, "OUTPUTS", folder)
    monkeypatch.setattr(index, "MAX_CHANGED", 0)
    monkeypatch.setattr(index, "MAX_CHANGED_SHARE", 0.0)
    monkeypatch.setattr(index, "MIN_AGE_NS", -(10**12))  # what was written just now is old enough
    list_runs(folder)
    assert [*indexed(folder)] == [f"s/r{number}" for number in range(NUM)]
    return folder


def list_runs(folder, **options):
    options = {"where": "", "sort": "optimizer.lr", **options}
    return [run | {"age_s": None} for run in listing.list_runs(folder, **options)[0]]


def without_index(call, *arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "OUTPUTS", index.OUTPUTS / "nowhere")
        return call(*arguments, **options)


def indexed(folder):
    """Paths of the runs in the index by the order in which they were added."""
    with sqlite3.connect(folder / index.INDEX_FILE) as database:
        return [path for (path,) in database.execute("SELECT path FROM runs ORDER BY path")]


@pytest.fixture
def read(monkeypatch):
    """Names of the runs whose files were read."""
    names = []
    original = Contents.read

    def noting(run, configs):
        names.append(run.directory.name)
        return original(run, configs)

    monkeypatch.setattr(Contents, "read", noting)
    return names


def test_only_runs_without_a_result_are_read_again(outputs, read):
    assert len(list_runs(outputs)) == NUM + 1
    assert read == ["open"]


def test_what_is_read_from_the_index_is_what_is_read_from_the_files(outputs, read):
    write(outputs / "s" / "nan", ["model.hidden_sizes=[3,4]", "fork=null"], value=float("nan"))
    write(outputs / "s" / "failed", [], status="failed", error={"type": "E", "message": "a\nb", "where": "é"})
    write(outputs / "s" / "none", ["optimizer.lr=0.003"], value=None, status="failed")
    result = outputs / "s" / "none" / "result.json"
    result.write_text(
        json.dumps(json.loads(result.read_text()) | {"objective": None})
    )  # it is in the configuration
    list_runs(outputs)
    read.clear()
    found = records.read_raw_records(outputs)
    assert read == ["open"]
    for ours, theirs in zip(found, without_index(records.read_raw_records, outputs), strict=True):
        assert repr({**vars(ours), "run": ours.run.directory, "config": dict(ours.config)}) == repr(
            {**vars(theirs), "run": theirs.run.directory, "config": dict(theirs.config)}
        )


def keep_times(change):
    """The change of a file, after which it has the times and the size of before."""

    def changed(path):
        before = path.stat()
        size = path.stat().st_size
        change(path)
        assert path.stat().st_size == size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return changed


def put(path, old, new):
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new))


def swap(a, b):
    a.rename(a.with_name("other"))
    b.rename(a)
    a.with_name("other").rename(b)


def copy_over(source, target):
    shutil.rmtree(target)
    shutil.copytree(source, target)  # with its times


CHANGES = {
    "a result in place": lambda s: put(s / "r1" / "result.json", "0.625", "0.375"),
    "a result, its times set back": lambda s: keep_times(lambda path: put(path, "0.625", "0.375"))(
        s / "r1" / "result.json"
    ),
    "a config, its times set back": lambda s: keep_times(lambda path: put(path, "lr: 0.1", "lr: 0.9"))(
        s / "r1" / "config.yaml"
    ),
    "overrides, their times set back": lambda s: keep_times(lambda path: put(path, "lr=0.1", "lr=0.9"))(
        s / "r1" / "provenance.json"
    ),
    "a result replaced by another file": lambda s: (s / "r2" / "result.json").replace(s / "r1" / "result.json"),
    "a run that begins again": lambda s: (s / "r1" / "result.json").rename(s / "r1" / "result_1.json"),
    "no provenance": lambda s: (s / "r1" / "provenance.json").unlink(),
    "a damaged result": lambda s: (s / "r1" / "result.json").write_text("{"),
    "a run deleted": lambda s: shutil.rmtree(s / "r1"),
    "a run moved": lambda s: (s / "r1").rename(s / "moved"),
    "two runs swapped": lambda s: swap(s / "r1", s / "r2"),
    "a run copied over another": lambda s: copy_over(s / "r2", s / "r1"),
    "a run copied": lambda s: shutil.copytree(s / "r1", s / "copy"),
    "a new run": lambda s: write(s / "new", ["seed=7"], value=0.9),
    "a run in a run": lambda s: write(s / "r1" / "inner", ["seed=7"], value=0.9),
    "the sweep moved": lambda s: s.rename(s.with_name("t")),
    "another in its place": lambda s: (s.rename(s.with_name("t")), write(s / "r1", ["seed=7"], value=0.9)),
    "a link to a run": lambda s: (s / "link").symlink_to(s / "r1"),
    "a link in place of a file": lambda s: (
        (s / "r1" / "result.json").unlink(),
        (s / "r1" / "result.json").symlink_to(s / "r2" / "result.json"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(outputs, change, capsys):
    before = list_runs(outputs)
    CHANGES[change](outputs / "s")
    for _ in range(2):  # the second time from the new index
        found = list_runs(outputs)
        err = capsys.readouterr().err
        assert found == without_index(list_runs, outputs)
        assert err == capsys.readouterr().err
        assert found != before or change == "a link to a run"


def test_a_parent_is_relative_to_where_the_report_is_made(outputs, tmp_path, monkeypatch):
    write(outputs / "s" / "fork", ["fork=outputs/s/r1@2"], value=0.9)
    config = outputs / "s" / "fork" / "config.yaml"
    config.write_text(config.read_text().replace(f"{Path.cwd()}/", ""))
    for place in (tmp_path, outputs):
        monkeypatch.chdir(place)
        assert {run.get("fork") for run in list_runs(outputs, sort="fork")} == {
            None,
            str(place / "outputs/s/r1"),
        }


def test_a_renamed_package_is_found_under_its_new_name(outputs, monkeypatch, read):
    monkeypatch.setattr("leyden.report.configs.current_target", lambda target: target.replace("project.", "new."))
    (found,) = {record.config["model._target_"] for record in records.read_raw_records(outputs / "s" / "r1")}
    every = {record.config["model._target_"] for record in records.read_raw_records(outputs)}
    assert every == {found}
    assert found.startswith("new.")


@pytest.mark.parametrize("is_mtime_set", [False, True])
def test_a_run_is_added_when_its_files_can_not_change_unseen(outputs, monkeypatch, is_mtime_set):
    (outputs / index.INDEX_FILE).unlink()
    monkeypatch.undo()
    monkeypatch.setattr(index, "OUTPUTS", outputs)
    monkeypatch.setattr(index, "MAX_CHANGED", 0)
    if is_mtime_set:  # the time of the inode's change is that of now
        for path in [*(outputs / "s").glob("r*/*"), *(outputs / "s").glob("r*")]:
            os.utime(path, (0, 0))
    list_runs(outputs)
    assert indexed(outputs) == []
    monkeypatch.setattr(index, "MIN_AGE_NS", 0)
    time.sleep(0.05)
    list_runs(outputs)
    assert len(indexed(outputs)) == NUM


def test_only_rows_of_the_folder_are_used_and_changed(outputs, read):
    for name in ("s.b", "s0", "s/r", "sr", "S"):
        write(outputs / name / "x", ["seed=5"], value=0.3)
    list_runs(outputs)
    every = indexed(outputs)
    shutil.rmtree(outputs / "s" / "r0")
    shutil.rmtree(outputs / "s0")
    read.clear()
    assert {*index.Index(outputs / "s").rows} == {"r0", "r1", "r2", "r/x"}
    assert list_runs(outputs / "s") == without_index(list_runs, outputs / "s")
    assert indexed(outputs) == [path for path in every if path != "s/r0"]
    (outputs.parent / "link").symlink_to(outputs / "s")
    read.clear()
    assert len(list_runs(outputs.parent / "link")) == NUM + 1
    assert read == ["open"]


def test_few_changes_do_not_make_it_anew(outputs, monkeypatch, read):
    monkeypatch.setattr(index, "MAX_CHANGED", 2)
    before = (outputs / index.INDEX_FILE).stat()
    for number in range(2):
        write(outputs / f"new{number}", [], value=0.2)
    for _ in range(2):
        list_runs(outputs)
    assert read == ["new0", "new1", "open"] * 2
    assert (outputs / index.INDEX_FILE).stat() == before
    write(outputs / "new2", [], value=0.2)
    list_runs(outputs)
    read.clear()
    list_runs(outputs)
    assert read == ["open"]


def test_names_that_are_special_elsewhere(tmp_path, outputs, read, monkeypatch):
    folder = tmp_path / "a?b#c%41 é"
    outputs.rename(folder)
    monkeypatch.setattr(index, "OUTPUTS", folder)
    for name in (b"'; DROP TABLE runs", b"line\nfeed", b"\xff not UTF-8", "é".encode()):
        write(folder / os.fsdecode(name), [], value=0.1)
    list_runs(folder)
    read.clear()
    assert list_runs(folder) == without_index(list_runs, folder)
    assert read[:2] == [os.fsdecode(b"\xff not UTF-8"), "open"] or read[:2] == [
        "open",
        os.fsdecode(b"\xff not UTF-8"),
    ]
    assert len(indexed(folder)) == NUM + 3


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :]


def test_damage_anywhere_changes_no_report(outputs):
    path = outputs / index.INDEX_FILE
    content, expected = path.read_bytes(), without_index(list_runs, outputs)
    damaged = [flipped(content, position) for position in range(0, len(content), 331)]
    damaged += [flipped(content, position) for position in range(100)]  # the header
    damaged += [content[:size] for size in (0, 1, 100, 4096, len(content) // 2, len(content) - 1)]
    damaged += [b"\0" * len(content), b"text" * 2000, content[:4096] * 3, content + content]
    for each in damaged:
        path.write_bytes(each)
        assert list_runs(outputs) == expected
        assert list_runs(outputs) == expected  # whatever it has become by that


def test_damage_that_only_an_update_meets_is_not_kept(outputs):
    path = outputs / index.INDEX_FILE
    with sqlite3.connect(path) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_runs_1'")
        ((size,),) = database.execute("PRAGMA page_size")
    content = path.read_bytes()
    path.write_bytes(content[: (page - 1) * size] + b"\xff" * size + content[page * size :])
    write(outputs / "new", [], value=0.9)
    for _ in range(2):
        assert list_runs(outputs) == without_index(list_runs, outputs)
    assert len(indexed(outputs)) == NUM + 1


def test_values_that_are_changed_in_the_index_are_not_believed(outputs, read):
    for column, value in (("content", "replace(content, '0.625', '0.999')"), ("config", "'0'"), ("path", "'s/r9'")):
        with sqlite3.connect(outputs / index.INDEX_FILE) as database:
            assert database.execute(f"UPDATE runs SET {column} = {value} WHERE path = 's/r1'").rowcount == 1
        read.clear()
        assert list_runs(outputs) == without_index(list_runs, outputs)
        assert read[0] in ("r1", "open")
    with sqlite3.connect(outputs / index.INDEX_FILE) as database:
        database.execute("UPDATE configs SET content = replace(content, 'max_epochs\": ', 'max_epochs\": 9')")
    by_epochs = list_runs(outputs, sort="trainer.max_epochs")
    assert by_epochs == without_index(list_runs, outputs, sort="trainer.max_epochs")
    read.clear()
    assert list_runs(outputs) == without_index(list_runs, outputs)
    assert read.count("r1") == 1  # without the index


@pytest.mark.parametrize("metrics", [{METRIC: 0.999}, {METRIC: "0.5"}, [], {METRIC: {}}])
def test_an_index_that_somebody_else_has_made_is_not_believed(outputs, monkeypatch, metrics):
    expected = without_index(list_runs, outputs, sort=METRIC)
    original = Contents.to_json

    def forge(contents):
        values = original(contents)
        values[-2][[*vars(contents.result)].index("metrics")] = metrics
        return values

    (outputs / index.INDEX_FILE).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(index, "_key", lambda: b"somebody else's".ljust(32), raising=False)
        patch.setattr(Contents, "to_json", forge)
        list_runs(outputs)
    assert len(indexed(outputs)) == NUM
    assert list_runs(outputs, sort=METRIC) == expected


@pytest.mark.parametrize("kind", ["missing", "empty", "fifo", "no home"])
def test_without_a_key_there_is_no_index(outputs, monkeypatch, tmp_path, kind):
    expected = without_index(list_runs, outputs)
    path = tmp_path / "cache" / "leyden" / "index.key"
    path.unlink()
    index._key.cache_clear()
    if kind == "empty":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    for _ in range(2):
        assert list_runs(outputs) == expected
    assert path.exists() is (kind != "no home")
    assert kind != "missing" or path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "statement",
    ["PRAGMA user_version = 7", "CREATE VIEW v AS SELECT 1", "DROP TABLE configs", "ALTER TABLE runs ADD COLUMN x"],
)
def test_an_index_of_another_version_is_made_anew(outputs, read, statement):
    with sqlite3.connect(outputs / index.INDEX_FILE) as database:
        database.execute(statement)
    list_runs(outputs)
    assert sorted(read) == ["open", "r0", "r1", "r2"]
    read.clear()
    list_runs(outputs)
    assert read == ["open"]


def test_other_code_is_another_version(outputs, monkeypatch, tmp_path, read):
    shutil.copytree(index.LIBRARY / "report", tmp_path / "library" / "report")
    monkeypatch.setattr(index, "LIBRARY", tmp_path / "library")
    list_runs(outputs)
    assert "r1" in read
    put(tmp_path / "library" / "report" / "index.py", "typed", "tiped")
    read.clear()
    list_runs(outputs)
    assert "r1" in read


@pytest.mark.parametrize("kind", ["folder", "pipe", "lost link"])
def test_what_is_no_file_in_its_place(outputs, kind):
    path = outputs / index.INDEX_FILE
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "lost link": lambda: path.symlink_to("gone")}[kind]()
    assert list_runs(outputs) == without_index(list_runs, outputs)
    assert not list(outputs.glob("*.tmp"))


@pytest.mark.parametrize("where", ["open", "begin", "insert", "commit"])
def test_an_index_that_can_not_be_written_stays_as_it_is(outputs, monkeypatch, where):
    write(outputs / "new", [], value=0.9)
    before = (outputs / index.INDEX_FILE).read_bytes()

    execute_, open_ = index.Update._execute, os.open

    def execute(self, statement, *values):
        if statement.lower().startswith(where):
            raise sqlite3.OperationalError("database or disk is full")
        execute_(self, statement, *values)

    def open_for_writing(path, flags, *arguments):
        if where == "open" and flags & os.O_CREAT:
            raise OSError("the disk is read-only")
        return open_(path, flags, *arguments)

    monkeypatch.setattr(index.Update, "_execute", execute)
    monkeypatch.setattr(os, "open", open_for_writing)
    assert len(list_runs(outputs)) == NUM + 2
    monkeypatch.undo()
    assert (outputs / index.INDEX_FILE).read_bytes() == before
    assert not list(outputs.glob("*.tmp"))


def test_there_is_none_outside_of_a_project(tmp_path, outputs):
    command = [sys.executable, "-c", "from leyden.report import index; print(index.OUTPUTS)"]
    environment = {key: value for key, value in os.environ.items() if key != PROJECT}
    assert subprocess.check_output(command, cwd=tmp_path, env=environment, text=True) == "None\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "OUTPUTS", None)
        assert index.Index(outputs).rows == {}
        assert len(list_runs(outputs)) == NUM + 1


def test_a_python_without_sqlite(outputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    write(outputs / "new", [], value=0.9)
    assert list_runs(outputs) == without_index(list_runs, outputs)


def test_what_killed_updates_have_left_is_removed(outputs):
    old, new = (outputs / f"{index.INDEX_FILE}.{name}.tmp" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, time.time() - 7200))
    write(outputs / "new", [], value=0.9)
    list_runs(outputs)
    assert not old.exists()
    assert new.exists()


def _list_often(folder):
    return [list_runs(folder) for _ in range(8)]


def test_many_processes_read_and_write_at_once(outputs):
    for number in range(10):
        write(outputs / f"new{number}", [f"seed={number}"], value=0.9)
    expected = without_index(list_runs, outputs)
    (outputs / index.INDEX_FILE).unlink()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map_async(_list_often, [outputs] * 4)
        while not results.ready():
            (outputs / index.INDEX_FILE).unlink(missing_ok=True)
            time.sleep(0.01)
        assert all(found == expected for each in results.get() for found in each)
    assert not list(outputs.glob("*.tmp"))


def test_reports_are_the_same(outputs, called, monkeypatch, read):
    for seed in range(3):
        for rate in (0.1, 0.2):
            write(
                outputs / "t" / f"{rate}{seed}", [f"optimizer.lr={rate}", f"seed={seed}"], value=rate + seed / 100
            )
    list_runs(outputs)
    for verb, arguments in (
        (summarize, [str(outputs / "t")]),
        (compare, [str(outputs / "t"), "a=optimizer.lr=0.1", "b=optimizer.lr=0.2"]),
    ):
        read.clear()
        found = called(verb, *arguments)
        assert read == []
        assert found == without_index(called, verb, *arguments)


def test_environments_checkpoints_and_links_are_not_searched(tmp_path, monkeypatch):
    for name in ("a", "a/checkpoints/inner", ".envs/0123/inner", "a/media/b", "checkpoints/c", "x/.hidden"):
        write(tmp_path / "o" / name, [], value=0.1)
    (tmp_path / "o" / ".envs" / "0123" / "pyvenv.cfg").touch()
    (tmp_path / "o" / "link").symlink_to("a")
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (scanned.append(str(path)), scandir(path))[1])
    found = [
        str(record.run.directory.relative_to(tmp_path / "o")) for record in records.read_raw_records(tmp_path / "o")
    ]
    assert found == ["a", "a/media/b", "checkpoints/c", "x/.hidden"]
    assert not any("inner" in path for path in scanned)
