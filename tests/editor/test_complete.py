"""What can be typed next: by `conf/`, and by the choices that are typed already."""

import json
import subprocess
import sys

import pytest

from leyden import completion
from leyden.config.paths import CONF
from leyden.editor import complete as module
from leyden.editor.complete import complete
from leyden.editor.composed import Composed
from leyden.editor.schemas import schemas
from tests.conf.test_conf import compose
from tests.test_imports import HEAVY, VERBS

RUN = "leyden train "


def test_verbs():
    assert complete("leyden ") == VERBS
    assert complete("leyden su") == ["summarize"]
    assert complete("python -u -m leyden.su") == ["leyden.summarize"]
    assert complete("X=1 .venv/bin/leyden su") == ["summarize"]
    assert complete("python su") == complete("python -m pytest su") == complete("leyden nothing x") == []


def test_groups_and_their_choices():
    models = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    assert complete(f"{RUN}model=") == [f"model={name}" for name in models]
    assert complete(f"{RUN}-m model={models[0]},") == [f"model={models[0]},{name}" for name in models]
    for group in ("experiment", "sweep", "cluster", "data/augment", "hydra/sweeper"):
        assert f"{group}=" in complete(f"{RUN}{group[:3]}")
        assert len(complete(f"{RUN}{group}=")) == len([*(CONF / group).glob("*.yaml")])
    assert complete(f"{RUN}callbacks/") == []
    assert {"+callbacks/stopping=", "+callbacks/pruning="} <= {*complete(f"{RUN}+callbacks/")}
    assert complete(f"{RUN}+data/") == []


def test_keys_are_those_of_the_choices():
    assert complete(f"{RUN}optimizer=sgd optimizer.m") == ["optimizer.momentum="]
    assert complete(f"{RUN}optimizer=adam optimizer.m") == []
    assert complete(f"{RUN}-m optimizer=sgd,adam optimizer.m") == ["optimizer.momentum="]
    assert complete(f"{RUN}cluster.part") == []
    assert complete(f"{RUN}cluster=slurm_ddp cluster.part") == ["cluster.partition="]
    assert complete(f"{RUN}+callbacks/stopping=early callbacks.stopping.pat") == ["callbacks.stopping.patience="]
    assert complete(f"{RUN}-m sweep=random hydra.sweeper.num") == ["hydra.sweeper.num_trials="]
    assert complete(f"{RUN}~callbacks.hist") == ["~callbacks.histograms", "~callbacks.histograms."]
    assert complete("leyden predict num_to") == ["num_tokens="]


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_the_choices_are_those_of_hydra(path):
    """What is read in milliseconds has the keys of what Hydra composes."""
    cfg, composed = compose(f"experiment={path.stem}"), Composed(CONF, "train", {"experiment": path.stem})
    for key, node in cfg.items():
        if key in composed.values and hasattr(node, "keys") and key != "cluster":
            assert {*composed.values[key]} - {"defaults"} == {*map(str, node)}, key
    assert composed.at("model._target_") == cfg.model._target_
    assert composed.at("data.dataset._target_" if "dataset" in cfg.data else "data._target_")


def test_a_typed_choice_counts_more_than_that_of_a_recipe():
    composed = Composed(CONF, "train", {"sweep": "random", "hydra/sweeper": "grid"})
    assert composed.chosen["hydra/sweeper"] == "grid"
    assert composed.at("hydra.sweeper.num_trials") is None


def test_values_by_the_schema_where_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert complete(f"{RUN}resume=") == complete(f"{RUN}+trainer.max_s") == []
    assert complete(f"{RUN}data.download=") == ["data.download=false", "data.download=true"]  # by its value now
    (tmp_path / ".vscode" / "schema").mkdir(parents=True)
    (tmp_path / ".vscode" / "schema" / "train.json").write_text(json.dumps(schemas()["train"]))
    assert complete(f"{RUN}resume=") == ["resume=auto", "resume=must", "resume=never"]
    assert complete(f"{RUN}sweep.pictures=a") == ["sweep.pictures=all"]
    assert complete(f"{RUN}data=table data.normalize=n") == ["data.normalize=none"]
    assert complete(f"{RUN}trainer.deterministic=") == [
        f"trainer.deterministic={value}" for value in ("false", "null", "true", "warn")
    ]
    assert complete(f"{RUN}+trainer.max_s") == ["+trainer.max_steps="]
    assert complete(f"{RUN}+optimizer.l") == []  # it is there


def test_folders_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "b c").mkdir()  # would need quotes
    (tmp_path / "runs" / "note.txt").touch()
    assert complete("leyden evaluate run=r") == ["run=runs/"]
    assert complete("leyden evaluate run=runs/") == complete("leyden evaluate 'run=runs/") == ["run=runs/a/"]
    assert complete(f"{RUN}data.root=runs/a") == ["data.root=runs/a/"]
    assert complete("leyden predict images=runs/") == ["images=runs/a/", "images=runs/note.txt"]
    assert complete("leyden evaluate run=nowhere/") == []
    assert complete("leyden summarize ru") == ["runs/"]


def test_options_of_verbs_without_a_configuration():
    assert complete("leyden runs w") == ["where="]
    assert complete("leyden runs format=") == ["format=csv", "format=json", "format=table"]
    assert complete("leyden reproduce env=") == ["env=true"]
    assert complete("leyden completion f") == ["fish"]


def test_a_shell_that_breaks_words():
    assert complete(f"{RUN}logger=tens", "tens") == ["tensorboard"]
    assert complete(f"{RUN}'logger=tens", "logger=tens") == ["logger=tensorboard"]


def test_nothing_heavy_is_imported():
    code = "import sys; sys.argv = ['', 'zsh', 'leyden train model=']; from leyden import completion; completion.main()"
    code += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*done.stderr.split()} & {*HEAVY, "hydra", "omegaconf", "rich", "numpy"}
    assert "model=" in done.stdout


@pytest.mark.parametrize("typed", [["tcsh"], ["bash", "leyden", "train", "model="]])
def test_another_shell(typed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["completion", *typed])
    with pytest.raises(SystemExit, match="2"):
        completion.main()
    assert "must be one of bash, fish, zsh" in capsys.readouterr().err


def test_the_usage(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["completion"])
    completion.main()
    assert 'eval "$(leyden completion bash)"' in capsys.readouterr().out
