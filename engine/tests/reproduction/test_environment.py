"""Versions that a stranger has written down are constraints, and nothing else."""

from pathlib import Path

import pytest

from leyden.config.errors import UserError
from leyden.reproduction import environment
from leyden.run.directory import Run
from tests.reproduction.conftest import start


def test_only_known_packages_are_constrained(make, repository, commit, monkeypatch):
    calls = []

    def call(*command):
        calls.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(environment, "_call", call)
    told = start(commit[1], versions={"torch": "2.13.0+cpu", "evil": "1.0", "numpy": "2.4.6"})
    run = Run(make(starts=[told]))
    python = environment.recorded_python(run, repository)
    assert len(calls) == 2
    assert calls[1][:4] == (str(python), "-m", "pip", "install")
    # Of the project itself nothing is installed, and the work tree stays as it is.
    assert {path.name for path in Path(calls[1][-1]).iterdir()} == {"src", "constraints.txt", "pyproject.toml"}
    assert not list((Path(calls[1][-1]) / "src").iterdir())
    written = (python.parents[1] / "constraints.txt").read_text()
    assert written.splitlines() == ["rich==15.0.0", "torch==2.13.0", "numpy==2.4.6"]
    # The same versions again are there already; others are another environment.
    assert environment.recorded_python(run, repository) == python
    assert len(calls) == 2
    other = Run(make("other", starts=[start(commit[1], versions={"torch": "2.12.0"})]))
    assert environment.recorded_python(other, repository) != python


@pytest.mark.parametrize("version", ["1.0 ; evil", "1.0\nevil", "@ file:///x", "-r x", 1.0, ""])
def test_what_is_no_version_is_refused(make, commit, version):
    run = Run(make(starts=[start(commit[1], versions={"torch": version})]))
    with pytest.raises(UserError, match="is not a version"):
        environment.recorded_versions(run)


def test_another_python_is_refused(make, commit, repository):
    run = Run(make(starts=[start(commit[1], python="3.9.1")]))
    with pytest.raises(UserError, match=r"env=true: the run had Python 3\.9\.1"):
        environment.recorded_python(run, repository)


def test_other_versions_are_told(make, commit, capsys):
    told = start(commit[1])
    environment.current_python(Run(make("a", starts=[told])))
    assert not capsys.readouterr().err
    environment.current_python(Run(make("b", starts=[{**told, "versions": {"torch": "1.0"}}])))
    assert "torch 1.0 there" in capsys.readouterr().err
