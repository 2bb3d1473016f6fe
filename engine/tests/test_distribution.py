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


def call(*command, cwd, code=0):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(template, tmp_path_factory):
    """It is built from the sdist, which has all that it takes."""
    folder = tmp_path_factory.mktemp("dist")
    engine = shutil.copytree(template / "engine", folder / "engine")
    call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pinned = ("-c", ROOT / "constraints.txt")
    call(python, "-m", "pip", "install", "-q", *pinned, "build", "setuptools>=77", cwd=folder)
    call(python, "-m", "build", "--quiet", "--no-isolation", "--outdir", folder, cwd=engine)
    (sdist,) = folder.glob("leyden-*.tar.gz")
    with tarfile.open(sdist) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert folders & {"src", "tests"} == {"src"}  # the tests need the template around them
    (wheel,) = folder.glob("*.whl")
    return wheel


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
    call(sys.executable, "scripts/mine.py", "kanlab", engine, cwd=copy)
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


def test_exact_resume_can_be_had_alone(installed, tmp_path):
    """In a folder that is no project: two lines in a script, which is killed and started again."""
    script = shutil.copy(ENGINE / "tests" / "testing" / "lightning_alone.py", tmp_path)
    killed = ("resumetest", "--", installed / "python", script, "{dir}", "--exact")
    assert "the same bits in all 40 steps" in call(installed / "leyden", *killed, cwd=tmp_path)


def test_verdicts_can_be_had_alone(installed, tmp_path):
    """In a folder that is no project, and without importing PyTorch: the door's page, and the verbs of a table."""
    tables = shutil.copytree(ENGINE / "docs" / "tables", tmp_path / "engine" / "docs" / "tables")
    page = (ENGINE / "docs" / "verdict.md").read_text()
    script = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S))
    (tmp_path / "page.py").write_text(
        f"{script}\nimport sys\nassert not {{'torch', 'hydra'}} & {{*sys.modules}}\n"
    )
    said = call(installed / "python", "page.py", cwd=tmp_path)
    assert said.count("With 95 % confidence the best setting is row 1.") == 4
    assert "Verdict: B is better" in said
    words = [str(tables / "results.csv"), "metric=acc", "mode=max"]
    assert "best setting is row 1.\n" in call(
        installed / "leyden", "summarize", *words, cwd=tmp_path
    )
    sides = ("a=model=mlp", "b=model=moe")
    assert "B is better" in call(installed / "leyden", "compare", *words, *sides, cwd=tmp_path)


def test_the_plugin_of_the_wheel_finds_the_files_of_a_project(installed, clone):
    pytest_of_it = (installed / "python", "-m", "pytest")
    assert " passed" in call(
        *pytest_of_it, "tests/test_contracts.py", "-k", "mlp and gradient", cwd=clone
    )


def test_without_the_engine_nothing_of_it_is_left(clone):
    files = git(clone, "ls-files").splitlines()
    assert not [file for file in files if "engine" in file or ".ci" in file or "library" in file]
    assert len([file for file in files if file.endswith(".py")]) <= 30
    assert "leyden @ file:///" in (clone / "pyproject.toml").read_text()
