"""What a project must change for this version: found in its files, edited there, and shown on a project of the last release."""

import os
import re
import sys
import sysconfig
import tarfile
from subprocess import run

import pytest

from leyden.base.doors import MOVED
from leyden.base.errors import as_line
from leyden.base.paths import environment_of
from leyden.scaffold.names import exists, public_names, successor
from leyden.scaffold.upgrade import find_changes
from tests import ENGINE, ROOT
from tests.conftest import finish, here, start
from tests.example import commit, git

MUSEUM = ENGINE / "tests" / "museum" / "projects"
FACTS = "leyden.data.facts"
# A file before and after; None where it is left as it is and something is to be done by hand.
PYTHON = [
    (f"from {FACTS} import Facts\n", "from leyden.data import Facts\n"),
    (
        f"from {FACTS} import Facts as F  # ours\r\n",
        "from leyden.data import Facts as F  # ours\r\n",
    ),
    (
        f"if 1:\n\tfrom {FACTS} import (\n\t\tFacts,\n\t)\n",
        "if 1:\n\tfrom leyden.data import Facts\n",
    ),
    (
        "if 1:\r\n  from leyden.tasks.task import Task, _x, Means as M\r\nx = 1",
        "if 1:\r\n  from leyden.tasks import Task, Means as M\r\n  from leyden.tasks.task import _x\r\nx = 1",
    ),
    (
        f"import os; from {FACTS} import Facts, DERIVED; x = Facts",
        f"import os; from leyden.data import Facts; from {FACTS} import DERIVED; x = Facts",
    ),
    (
        "from leyden.config.console import Terminal\nTerminal()",
        "from rich.console import Console as Terminal\nTerminal()",
    ),
    (
        "import leyden.data.table as t\nclass A(t.Table): pass",
        "import leyden.data as t\nclass A(t.Table): pass",
    ),
    (
        f"import leyden.data.folder, {FACTS}, os\nx = ({FACTS}\n  .Facts(), leyden.data.folder.Folder)",
        "import leyden.data, leyden.data, os\nx = (leyden.data.Facts(), leyden.data.Folder)",
    ),
    (
        f"def a():\n  import {FACTS} as f; f.Facts\ndef b():\n  import {FACTS} as f; f.Facts",
        "def a():\n  import leyden.data as f; f.Facts\ndef b():\n  import leyden.data as f; f.Facts",
    ),
    (
        "# -*- coding: latin-1 -*-\ns = 'é'; import leyden.data.text as t; t.Text",
        "# -*- coding: latin-1 -*-\ns = 'é'; import leyden.data as t; t.Text",
    ),
    (
        "\ufeffx = 'é€𝒳'; from leyden.data.text import Text",
        "\ufeffx = 'é€𝒳'; from leyden.data import Text",
    ),
    # By hand: another name, one that is gone, or a comment would be lost.
    ("import leyden.config.console as c\nc.Terminal", None),
    (f"import {FACTS} as f\nf.Facts, f.DERIVED", None),
    (f"from {FACTS} import (\n  Facts,  # noqa\n)", None),
    (f"from {FACTS} import *", None),
    ("from leyden.data import facts", None),
    (f"x = '{FACTS}.Facts'", None),
    ("x = ['task._target_=leyden.tasks.language.Language']", None),
    ("from leyden.data.facts import Facts\nx = (", None),
    # Nothing: they are public, not the library's, or in prose.
    ("from leyden.data import Facts, Table as T\nimport leyden.tasks as t\nt.Task", ""),
    (
        f"# from {FACTS} import Facts\n'''See {FACTS}.Facts.'''\nfrom .leyden.data.facts import Facts",
        "",
    ),
    (f"from mine.{FACTS} import Facts\nimport leydens.data.facts\nx = leyden_data.facts.Facts", ""),
]
OLD_TASK = "leyden.tasks.language.Language"
YAML = [
    (
        f"# {OLD_TASK}\r\na: &a {{_target_: '{OLD_TASK}'}}  # é {OLD_TASK}\r\nb: *a\r\nc: see {OLD_TASK}\r\n",
        f"# {OLD_TASK}\r\na: &a {{_target_: 'leyden.tasks.Language'}}  # é {OLD_TASK}\r\nb: *a\r\nc: see {OLD_TASK}\r\n",
    ),
    (f"\ufeff_target_: {OLD_TASK}", "\ufeff_target_: leyden.tasks.Language"),
    (
        "# @package _global_\nsweep:\n  fail_fast: true  # yes\n  seeds: 3\n",
        "# @package _global_\nsweep:\n  seeds: 3\n",
    ),
    ("# @package _global_\nsweep:\n  fail_fast: true\n", None),  # nothing would be left
    ("# @package _global_\nsweep: {fail_fast: true, seeds: 3}\n", None),
    ("_target_: leyden.pictures.network.Graph\n", None),
    (f"{OLD_TASK}: 1\nname: leyden.io\n_target_: mine.{OLD_TASK}\nfail_fast: true\n", ""),
    ("a: &a\n  b: *a\n", None),  # within itself
    ("x: [\n", None),
]
TOML = [
    (
        'dependencies = [\n  "leyden",  # it\n  "x[y]",\n]',
        'dependencies = [\n  "leyden[train]",  # it\n  "x[y]",\n]',
    ),
    ("dependencies = ['leyden[gp] @ git+x']", "dependencies = ['leyden[train,gp] @ git+x']"),
    ('name = "leyden"\ndependencies = ["leyden-x", "leyden[train]"]\n[a]\nb = ["leyden"]', ""),
]
MAKE = [
    ("a:\n\t@$(BIN)/leyden schema > x\n\techo\n", "a:\n\techo\n"),
    ("a:\n\t$(BIN)/leyden schema && x\n", None),
    ("a:\n\tleyden train\n# leyden-schema\n", ""),
]
FILES = [("src/lab/a.py", PYTHON), ("conf/exp/a.yaml", YAML), ("pyproject.toml", TOML)]
CASES = [(name, *case) for name, cases in [*FILES, ("Makefile", MAKE)] for case in cases]


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("conf/train.yaml", "src/lab/__init__.py", "conf/exp/x.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("LEYDEN_PROJECT", str(tmp_path))
    monkeypatch.setattr("leyden.base.paths._found", None)
    return tmp_path


def encoded(text):
    return text.encode("latin-1" if "latin-1" in text else "utf-8")


@pytest.fixture
def upgrade(project, capsys):
    """Runs the command in the project, and returns what it prints."""

    def call(*arguments, code=0):
        assert here("upgrade", *arguments) == code
        out, err = capsys.readouterr()
        return out + err

    return call


@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_places_are_edited_listed_or_left(project, upgrade, name, before, after):
    path = project / name
    path.write_bytes(encoded(before))
    said = upgrade("write=true")
    new = path.read_bytes()
    if after:
        assert new == encoded(after)
        assert "changed" not in upgrade("write=true")
    else:
        assert new == encoded(before)
        assert ("by hand" in said) == (after is None)


def test_without_write_nothing_is_edited_nor_is_what_git_could_not_undo(project, upgrade):
    path = project / "src" / "lab" / "a.py"
    path.write_text(f"from {FACTS} import Facts\n")
    before = path.read_bytes()
    line = f"src/lab/a.py:1: from {FACTS} import Facts → from leyden.data import Facts\n"
    assert upgrade() == f"{line}leyden upgrade write=true changes them (places: 1, files: 1)\n"
    git(project, "init", "-q")
    said = "leyden: src/lab/a.py: has changes; commit them first, so that git can undo this\n"
    assert upgrade("write=true", code=2) == said
    assert path.read_bytes() == before
    commit(project)
    (project / "conf" / "train.yaml").write_text("a: 1")  # a change elsewhere is no hindrance
    assert "changed" in upgrade("write=true")
    assert path.read_text() == "from leyden.data import Facts\n"


def test_runs_environments_and_what_links_lead_to_are_left(project, upgrade, tmp_path_factory):
    old = f"from {FACTS} import Facts\n"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.py").write_text(old)
    (project / "src" / "lab" / "link.py").symlink_to(elsewhere / "a.py")
    (project / "src" / "folder").symlink_to(elsewhere)
    left = [
        "outputs/a.py",
        "lab/run/a.py",
        "lab/sweep/job/a.py",
        "env/a.py",
        ".venv/a.py",
        "engine/a.py",
    ]
    for name in left:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(old)
    for name in ("lab/run/run.json", "lab/sweep/sweep.json", "env/pyvenv.cfg"):
        (project / name).touch()
    (project / "engine" / "src" / "leyden").mkdir(parents=True)
    (project / "engine" / "src" / "leyden" / "__init__.py").touch()
    os.mkfifo(project / "src" / "lab" / "pipe.py")
    (project / "src" / "lab" / "latin.py").write_bytes(b"'leyden \xe9'")
    said = upgrade("write=true")
    assert "(in a link)" in said
    assert "latin.py:1: latin.py → can't be read" in said
    assert said.count("\n") == 3
    assert {(project / name).read_text() for name in left} == {old}
    assert (elsewhere / "a.py").read_text() == old


def test_each_name_of_before_has_one_of_today():
    """Those of the table, and those that templates and pages of the last release named."""
    named = [
        "data.fetch.load",
        "run.provenance.machine",
        "pictures.base.OnEvaluation",
        "config.errors.UserError",
    ]
    for name in [*MOVED, *(f"leyden.{each}" for each in named)]:
        new = successor(name)
        assert new.rpartition(".")[2] in public_names(new.rpartition(".")[0])
        assert exists(new)
    assert exists("leyden.config.paths.ROOT")
    assert not exists("leyden.data.facts")
    assert successor("leyden.data.Facts") is None


def test_an_import_of_before_that_fails_names_the_command():
    for line in (f"import {FACTS}", "from leyden.data import facts"):
        with pytest.raises(ImportError) as raised:
            exec(line)
        assert "; leyden upgrade lists what has moved" in as_line(raised.value)


def test_the_template_has_nothing_to_change():
    found = find_changes(ROOT)
    assert {source.path.name for source in found} <= {"pyproject.toml"}


def lend(project):
    """An environment with the project and its engine alone; what they depend on is that of these tests."""
    run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=project, check=True)
    (own,) = (project / ".venv").glob("lib/python3*/site-packages")
    places = [project / "engine" / "src", project / "src", sysconfig.get_path("purelib")]
    (own / "lent.pth").write_text("\n".join(map(str, places)))
    verb = project / ".venv" / "bin" / "leyden"
    verb.write_text(f"#!{project}/.venv/bin/python\nfrom leyden.__main__ import main\nmain()\n")
    verb.chmod(0o755)
    for stamp in (".train", ".dev"):  # as if all were installed, whatever changes
        (project / ".venv" / stamp).touch()
        os.utime(project / ".venv" / stamp, (2**33, 2**33))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow(minutes=1.5)
def test_a_project_of_the_last_release_takes_this_one_as_the_page_says(
    template, tmp_path, mnist_root
):
    """It has a network and data of its own, YAMLs with old names, a finished run, one that was stopped, half a sweep."""
    upstream = tmp_path / "upstream"
    project = tmp_path / "kanlab"
    git(tmp_path, "clone", "-q", str(template), str(upstream))
    git(upstream, "branch", "-M", "main")
    git(tmp_path, "clone", "-q", "-b", "main", str(MUSEUM / "0.2.0.bundle"), str(project))
    with tarfile.open(MUSEUM / "0.2.0-outputs.tar.xz") as archive:
        archive.extractall(project / "outputs", filter="data")
    (project / "data").symlink_to(ROOT / "data")
    lend(project)
    outputs = project / "outputs"
    before = contents(outputs)
    path = f"{project / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    who = {
        f"GIT_{role}_{key}": "me" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
    }
    environment = {**os.environ, **who, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    environment.pop("LEYDEN_PROJECT", None)

    def shell(line):
        done = run(line, shell=True, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def leyden(verb, *words, code=0):
        here = environment_of(project)
        return finish(start(*words, script=("-m", f"leyden.{verb}"), cwd=project, **here), code)

    page = (ENGINE / "docs" / "yours.md").read_text().partition("## A newer library")[2]
    *_, steps = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    said = {line: shell(line.replace("URL", str(upstream))) for line in steps.splitlines()}
    assert "src/kanlab/data/shapes.py:6: " in said["leyden upgrade"]
    assert "changed" in said["leyden upgrade write=true"]
    assert re.search(r"\d\d passed", said["make test"])
    assert "val/acc" in shell('make train ARGS="trainer.max_epochs=1"')
    # Runs of before: a line says who reads them, and nothing of them is written.
    for verb, *words in (
        ["train", "experiment=bars", "run_dir=outputs/finished", "logger=csv"],
        ["train", "run_dir=outputs/interrupted", "trainer.max_epochs=2000", "logger=csv"],
        ["evaluate", "run=outputs/finished"],
        ["reproduce", "run=outputs/finished"],
        ["summarize", "outputs/sweeps/half"],
    ):
        assert "is a run of an earlier Leyden" in leyden(verb, *words, code=2)
    half = (
        "-m",
        "sweep_name=half",
        "optimizer.lr=0.001,0.01",
        "trainer.max_epochs=30",
        "logger=csv",
    )
    assert "choose another sweep_name" in leyden("train", *half, code=2)
    leyden("train", "init_from=outputs/finished", "trainer.max_epochs=1", "callbacks=averaged")
    changed = {file for file, content in before.items() if file.read_bytes() != content}
    assert changed <= {outputs / "test_evaluations.csv"}
    # And those of today.
    for epochs in (1, 2):
        leyden("train", "experiment=bars", "run_dir=outputs/new", f"trainer.max_epochs={epochs}")
    assert "test/acc" in leyden("evaluate", "run=outputs/new")
    leyden(
        "train",
        "-m",
        "sweep_name=lr",
        "optimizer.lr=0.001,0.01",
        "seed=0,1",
        "trainer.max_epochs=1",
    )
    assert "best" in leyden("summarize", "outputs/sweeps/lr")
    sides = ("a=optimizer.lr=0.001", "b=optimizer.lr=0.01")
    assert "Verdict" in leyden("compare", "outputs/sweeps/lr", *sides)
