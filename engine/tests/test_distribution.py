"""The library as others install it: built, put into an empty environment, and used from other folders.

It needs a package index, so its tests are `system` ones.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from leyden.run.directory import Run
from tests import ENGINE, ROOT
from tests.example import commit, git

pytestmark = pytest.mark.system
# A fresh shell's, without what these tests were started with.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "LEYDEN_PROJECT")
}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "PIP_NO_COMPILE": "1"}  # what is imported is compiled then


def call(*command, cwd, code=0, **environment):
    words = [*map(str, command)]
    variables = {**ENVIRONMENT, **environment}
    done = subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def python_in(folder):
    """A new environment's Python."""
    call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def built(template, folder):
    """The sdist and the wheel that `make build` makes in a clone; what the clone's `.venv` would have is not needed."""
    git(folder, "clone", "-q", str(template), "clone")
    python_in(folder / "venv")
    of_make = (f"VENV={folder / 'venv'}", "--old-file", folder / "venv" / ".dev")
    call("make", "-C", folder / "clone" / "engine", "build", *of_make, cwd=folder)
    return sorted((folder / "clone" / "engine" / "dist").iterdir())


@pytest.fixture(scope="session")
def distributions(template, tmp_path_factory):
    """The wheel, which is built from the sdist, and the sdist."""
    return built(template, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(distributions):
    return distributions[0]


@pytest.fixture
def unpacked(distributions, tmp_path):
    with tarfile.open(distributions[1]) as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    return folder


def test_a_commit_has_the_same_bytes_wherever_it_is_built(template, distributions, tmp_path):
    again = built(template, tmp_path)
    assert [path.name for path in again] == [path.name for path in distributions]
    for one, other in zip(distributions, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


# The others need the template around them.
RUN_ALONE = [
    "tests/verdict",
    pytest.param("tests/exact", marks=pytest.mark.nightly),
]


@pytest.mark.parametrize("part", RUN_ALONE)
def test_the_sdist_has_all_tests_and_runs_those_that_need_no_template(template, unpacked, part):
    listed = {f"engine/{path.relative_to(unpacked)}" for path in unpacked.rglob("*")}
    for folder in ("tests", "src"):
        assert {*git(template, "ls-files", f"engine/{folder}").splitlines()} <= listed
    environment = {"PYTHONPATH": str(unpacked / "src"), "PYTEST_ADDOPTS": ""}
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        part,
        "tests/test_extras.py",
    )
    assert " passed" in call(*command, cwd=unpacked, **environment)


def lend(project, wheel):
    """An environment with the wheel and the project alone; what they depend on is that of these tests, which `make train` has installed."""
    python = project / ".venv" / "bin" / "python"
    call(sys.executable, "-m", "venv", "--without-pip", project / ".venv", cwd=project)
    own = call(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=project
    ).strip()
    # A .pth in there, as of the library's sources, has no effect.
    Path(own, "lent.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--python", python)
    call(*pip, "install", "-q", "--no-deps", wheel, "-e", ".", cwd=project)
    (project / ".venv" / ".train").touch()


def clone_of(template, folder, engine, *, lent=False):
    """A fresh clone of a project that was made of the template, with what `make train` installs."""
    copy = shutil.copytree(template, folder / "copy", symlinks=True)
    call(sys.executable, "engine/scripts/mine.py", "kanlab", engine, cwd=copy)
    commit(copy)
    git(folder, "clone", "-q", str(copy), "clone")
    (folder / "clone" / "data").symlink_to(ROOT / "data")
    if lent:
        lend(folder / "clone", engine)
    small = "trainer.max_epochs=1 data.val_size=59000 callbacks=bare logger=none"
    assert "test/acc" in call("make", "train", f"ARGS={small}", cwd=folder / "clone")
    return folder / "clone"


@pytest.fixture(scope="session")
def clone(template, wheel, tmp_path_factory):
    """One that depends on the wheel."""
    return clone_of(template, tmp_path_factory.mktemp("mine"), wheel, lent=True)


@pytest.fixture(scope="session")
def installed(clone):
    """The folder of its commands."""
    return clone / ".venv" / "bin"


def test_the_wheel_has_types_settings_and_its_version(installed, wheel, tmp_path):
    assert (
        call(installed / "leyden", "--version", cwd=tmp_path)
        == f"leyden {wheel.name.split('-')[1]}\n"
    )
    names = call(installed / "python", "-m", "zipfile", "-l", wheel, cwd=tmp_path)
    packed = ("py.typed", "conf/run_defaults.yaml", "conf/hydra/sweeper/sampler/tpe.yaml")
    for name in (*packed, "scaffold/templates/train.yaml"):
        assert f"leyden/{name}" in names
    assert not re.search(r"project/|tests/", names)
    said = call(installed / "leyden", "train", cwd=tmp_path, code=2)
    refused = (
        "not in a project: no folder from here upwards has conf/train.yaml; leyden init creates one"
    )
    assert said == f"leyden: {tmp_path}: {refused}\n"


@pytest.mark.nightly  # the installed library is used by the tests beside it
def test_an_existing_project_is_adopted_as_the_page_says(installed, tmp_path, monkeypatch):
    """docs/adopt.md, from a plain program to a resumed run and a sweep."""
    page = (ENGINE / "docs" / "adopt.md").read_text()
    for name, text in re.findall(
        r"^```python\n# (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{installed}{os.pathsep}{os.environ['PATH']}")
    train_yaml = tmp_path / "conf" / "train.yaml"
    for command in "".join(blocks).splitlines():
        words = shlex.split(command, comments=True)
        if words[:2] == ["pip", "install"]:
            continue
        if "cluster=slurm_gpu" in words:
            assert "#SBATCH --gpus-per-node=1" in call(*words, "cluster.dry_run=true", cwd=tmp_path)
            continue
        if words[:2] == ["leyden", "train"] and "-m" in words:  # the page names the metric before
            objective = "objective:\n  metric: val_loss\n  mode: min\n"
            text = re.sub(
                r"^objective: null.*\n", objective, train_yaml.read_text(), flags=re.MULTILINE
            )
            train_yaml.write_text(text)
        said = call(*words, cwd=tmp_path)
        if words[1] == "init":
            assert "_target_: lab.net.Net" in train_yaml.read_text()
    run = Run(tmp_path / "outputs" / "first")
    assert run.result.epochs == 20
    (start,) = run.starts  # the second one found it finished
    version = call("leyden", "--version", cwd=tmp_path).split()[1]
    assert start["versions"]["leyden"].startswith(
        f"{version} @ sha256="
    )  # of the wheel that it is from
    assert "hidden" in said
    # Killed within an epoch, it comes to the same bits, also from another folder of the project.
    few = ("trainer.max_epochs=2", "callbacks.checkpoint.every_n_steps=3", "exact=test")
    assert "the same bits in all" in call("leyden", "train", *few, cwd=tmp_path / "lab")


@pytest.mark.nightly(
    alone=True
)  # .ci/run does so with the engine in it, and has installed the wheel
@pytest.mark.parametrize("engine", ["", "wheel"])
def test_a_project_of_ones_own_passes_its_tests_and_its_checks(template, request, tmp_path, engine):
    clone = clone_of(template, tmp_path, engine and request.getfixturevalue(engine))
    assert (clone / "engine").exists() == (not engine)
    assert " passed" in call("make", "test", cwd=clone)
    for part in ("model=capsule", "task=ranking", "data=birds"):
        call(clone / ".venv" / "bin" / "leyden", "new", part, cwd=clone)
    assert "Success" in call("make", "check", cwd=clone)


def test_the_wheel_resumes_a_script_that_is_killed(installed, tmp_path):
    """In a folder that is no project: two lines in a script, which is killed and started again."""
    resumes_alone(installed, tmp_path)


def resumes_alone(commands, folder):
    script = shutil.copy(ENGINE / "tests" / "testing" / "lightning_alone.py", folder)
    killed = ("resumetest", "--", commands / "python", script, "{dir}", "--exact")
    assert "the same bits in all 40 steps" in call(commands / "leyden", *killed, cwd=folder)


def compares_alone(commands, folder):
    """In a folder that is no project: the door's page, and the verbs of a table."""
    tables = shutil.copytree(ENGINE / "docs" / "tables", folder / "engine" / "docs" / "tables")
    page = (ENGINE / "docs" / "verdict.md").read_text()
    script = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S))
    none_of = "\nimport sys\nassert not {'torch', 'hydra', 'numpy'} & {*sys.modules}\n"
    (folder / "page.py").write_text(script + none_of)
    said = call(commands / "python", "page.py", cwd=folder)
    assert said.count("With 95 % confidence the best setting is row 1.") == 4
    assert "Verdict: B is better" in said
    words = [str(tables / "results.csv"), "metric=acc", "mode=max"]
    said = call(commands / "leyden", "summarize", *words, cwd=folder)
    assert "best setting is row 1.\n" in said
    sides = ("a=model=mlp", "b=model=moe")
    assert "B is better" in call(commands / "leyden", "compare", *words, *sides, cwd=folder)


INSTALLS = "is not installed; pip install 'leyden[{}]' installs it\n"


def test_leyden_alone_is_small_has_verdicts_and_names_what_is_missing(wheel, tmp_path):
    python = python_in(tmp_path / "venv")
    before = size_of(tmp_path / "venv")
    call(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    assert size_of(tmp_path / "venv") - before <= 40 * 2**20
    compares_alone(python.parent, tmp_path)
    for verb in ("train", "evaluate", "compare", "runs", "resumetest"):
        said = call(python.parent / "leyden", verb, cwd=tmp_path, code=2)
        assert said.endswith(INSTALLS.format("exact" if verb == "resumetest" else "train"))
        assert said.count("\n") == 1
    said = call(python, "-c", "from leyden.exact import Exact", cwd=tmp_path, code=1)
    assert said.endswith(INSTALLS.format("exact"))
    call(python, "-m", "pip", "install", "-q", "pytest", cwd=tmp_path)
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    pass\n")
    assert "1 passed" in call(python, "-m", "pytest", "test_mine.py", cwd=tmp_path)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.nightly(alone=True)  # it gets PyTorch; tests/test_extras.py refuses what else is there
def test_leyden_exact_has_no_more_than_it_needs(wheel, tmp_path):
    python = python_in(tmp_path / "venv")
    pinned = ("-c", ROOT / "constraints.txt")
    call(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        *pinned,
        f"leyden[exact] @ {wheel.as_uri()}",
        cwd=tmp_path,
    )
    compares_alone(python.parent, tmp_path)
    resumes_alone(python.parent, tmp_path)
    said = call(python.parent / "leyden", "train", cwd=tmp_path, code=2)
    assert said.endswith(INSTALLS.format("train"))


def test_the_plugin_of_the_wheel_finds_the_files_of_a_project(installed, clone):
    pytest_of_it = (installed / "python", "-m", "pytest")
    assert " passed" in call(
        *pytest_of_it, "tests/test_contracts.py", "-k", "mlp and gradient", cwd=clone
    )


def test_without_the_engine_nothing_of_it_is_left(clone):
    files = git(clone, "ls-files").splitlines()
    assert not [file for file in files if "engine" in file or ".ci" in file or "library" in file]
    assert len([file for file in files if file.endswith(".py")]) <= 30
    assert "leyden[train] @ file:///" in (clone / "pyproject.toml").read_text()
