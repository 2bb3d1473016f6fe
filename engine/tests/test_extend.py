"""What somebody meets who makes this project theirs: new networks, schedules, recipes, a new name."""

import functools
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib import pyplot

from leyden import assembly, scaffold
from leyden.base.errors import UserError
from leyden.base.paths import conf_files, environment_of
from leyden.scaffold import write_part
from leyden.testing.contracts import compose
from tests import ROOT, conf
from tests.conftest import SMALL, assert_same_bits, finish, start
from tests.example import OWN, commit, git, script
from tests.tasks.test_table import OF_DATA, stop_and_resume
from tests.training.test_start import curves, train  # noqa: F401 - a fixture


def test_augmentation_is_for_training_only_and_follows_the_seed(mnist_root):
    data = assembly.datamodule(compose("data/augment=affine", f"data.root={mnist_root}"))
    plain = assembly.datamodule(compose(f"data.root={mnist_root}"))

    def first(loader):
        torch.manual_seed(3)
        return next(iter(loader))[0]

    changed = first(data.train_dataloader())
    again = first(data.train_dataloader())
    unchanged = first(plain.train_dataloader())
    assert torch.equal(changed, again)
    assert not torch.equal(changed, unchanged)
    assert torch.equal(first(data.val_dataloader()), first(plain.val_dataloader()))


MONITORED = ("+callbacks.monitor._target_=leyden.pictures.Monitor", "trainer.log_every_n_steps=1")
FEW_STEPS = ("trainer.limit_train_batches=0.55", "trainer.accumulate_grad_batches=5")
SCHEDULES = [("cosine", ("scheduler.warmup_steps=4",), 20), ("onecycle", FEW_STEPS, 2)]


@pytest.mark.parametrize(("scheduler", "overrides", "num_steps"), SCHEDULES)
def test_a_schedule_ends_with_the_run(train, scheduler, overrides, num_steps):  # noqa: F811
    given = (*MONITORED, f"scheduler={scheduler}", *overrides)
    run, *_ = train("run", *given, "trainer.max_epochs=2")
    rates = [value for _, metric, value in curves(run) if metric == "lr"]
    assert len(rates) == run.result.optimizer_steps == num_steps
    assert rates[0] != rates[-1]
    if scheduler == "cosine":  # it rises before it falls
        assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
        assert rates[4:] == sorted(rates[4:], reverse=True)
        assert rates[-1] < 2e-5
        *_, err = train("run", *given, "trainer.max_epochs=3", code=2)
        assert "trainer.max_epochs: 2 there, 3 here" in err


@pytest.mark.slow(minutes=0.2)
def test_a_schedule_follows_the_objective_and_trains_longer(train):  # noqa: F811
    given = (
        *MONITORED,
        "scheduler=plateau",
        "scheduler.patience=0",
        "+scheduler.threshold=10",
        "objective.metric=val/loss",
        "objective.mode=min",
    )
    whole, *_ = train("whole", *given, "trainer.max_epochs=4")
    rates = {value for _, metric, value in curves(whole) if metric == "lr"}
    # Nothing is better by so much.
    assert sorted(rates) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    for epochs in (2, 4):
        longer, *_ = train("longer", *given, f"trainer.max_epochs={epochs}")
    assert_same_bits(whole.directory, longer.directory)


QUICK = (
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "data.eval_batch_size=10000",
    "callbacks=bare",
    "logger=none",
)


def recipe(name):
    """The commands that a recipe names, and what its data are cut to, as the small files have no more."""
    text = dict(conf_files())[Path("experiment", f"{name}.yaml")].read_text()
    head, _, _ = text.partition("\nname:")
    commands = re.findall(r"^#   leyden train (.+)$", head, re.M)
    val_size = yaml.safe_load(text).get("data", {}).get("val_size")
    cut = [f"data.val_size={min(val_size, 5000)}"] if val_size else []
    return [*map(shlex.split, commands)], cut


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(
    "name", ["focal", *sorted({path.stem for path in conf("experiment")} - {"focal"})]
)
def test_an_experiment_goes_on_within_an_epoch(command, small_root, tmp_path, monkeypatch, name):
    (*before, last), cut = recipe(name)
    place = (*cut, f"data.root={small_root}", "data.download=false")
    monkeypatch.chdir(tmp_path)
    for typed in before:
        command("train", *typed, *QUICK, *place)
    if last[0] == "-m":  # its jobs would be other processes
        command("train", *last, *QUICK, *place, "dry_run=true")
    typed = [f"experiment={name}"] if last[0] == "-m" else last
    stop_and_resume(command, tmp_path, *typed, *place, "data.batch_size=20", *OF_DATA)


@pytest.mark.slow(minutes=0.1)
def test_the_notebook_shows_the_runs_of_a_sweep(train, tmp_path, monkeypatch, capfd):  # noqa: F811
    few = (*SMALL, "callbacks=bare", "trainer.max_epochs=1", "test=false")
    for lr, seed in ((0.0003, 0), (0.0003, 1), (0.003, 0), (0.003, 1)):
        train(f"outputs/sweeps/notebook/{lr}_{seed}", *few, f"optimizer.lr={lr}", f"seed={seed}")
    (tmp_path / "scripts").mkdir()
    monkeypatch.chdir(tmp_path / "scripts")
    monkeypatch.setattr(pyplot, "show", lambda: drawn.append(pyplot.gcf().axes))
    drawn = []
    found = {}
    for cell in json.loads((ROOT / "scripts" / "runs.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), found)
            pyplot.close("all")
    out = capfd.readouterr().out
    assert re.match(r"lr 0.003  seed [01]  val/acc 0\.", out)
    assert out.count("(n = 2)") == 2
    assert len(drawn[0][0].lines) == 4
    assert " as " in drawn[1][0].get_title()


@pytest.fixture
def copy(template, tmp_path):
    return shutil.copytree(template, tmp_path / "copy", symlinks=True)


def call(folder, *arguments, code=0, **how):
    """Run Python in a copy, which ends with this code; returns all it says."""
    return finish(start(script=arguments, cwd=folder, **how, **environment_of(folder)), code)


@pytest.mark.slow(minutes=0.4)
def test_a_project_of_ones_own_has_its_name_everywhere_and_new_parts_are_files_that_train(
    copy, mnist_root
):
    """A name of the longest that is allowed."""
    name = "a_very_long_project1"
    assert len(call(copy, "scripts/mine.py", name).splitlines()) == 2
    for path in (f"src/{name}/models/mlp.py", "CITATION.cff", "CHANGELOG.md"):
        assert (copy / path).exists()
    for path in (f"src/{OWN}", "scripts/mine.py"):
        assert not (copy / path).exists()
    for file in git(copy, "diff", "--name-only", "HEAD").splitlines():
        if file.startswith("engine/"):
            assert re.fullmatch(r"engine/docs/[\w-]+\.md", file)
    assert f"src/{name}/tasks/sure.py" in (copy / "engine/docs/own.md").read_text()
    readme = (copy / "README.md").read_text()
    links = re.findall(r"\]\((engine/.+?)\)", readme)
    assert len(links) > 5
    for link in links:
        assert (copy / link).is_file()
    left = rf"\b{OWN}\.[a-z_]+\.|src/{OWN}\b|(from|import) {OWN}\b|^name = .{OWN}"
    search = ["git", "grep", "-nE", left, "--", ".", ":!engine", "engine/docs/*.md"]
    found = subprocess.run(search, cwd=copy, capture_output=True, text=True)
    assert not found.stdout
    assert "mine" not in (copy / "Makefile").read_text()
    assert f"# {name}" in readme
    call(copy, "-m", "ruff", "check", ".")
    call(copy, "-m", "ruff", "format", "--check", ".")
    package = copy / "src" / name
    (copy / "src" / "aside").mkdir()  # a package of yours, too, but without networks
    (copy / "src" / "aside" / "__init__.py").write_text("")
    commit(copy)
    assert "leyden train data=birds" in call(copy, "-m", "leyden.new", "data=birds")
    call(copy, "-m", "leyden.new", "model=capsule_net")
    said = call(copy, "-m", "leyden.new", "task=ranking")
    assert "from=TASK begins as another: regression, forecast" in said
    assert git(copy, "status", "--porcelain", "-uall").splitlines() == [
        "?? conf/data/birds.yaml",
        "?? conf/model/capsule_net.yaml",
        "?? conf/sweep/capsule_net.yaml",
        "?? conf/task/ranking.yaml",
        f"?? src/{name}/data/birds.py",
        f"?? src/{name}/models/capsule_net.py",
        f"?? src/{name}/tasks/ranking.py",
    ]
    said = call(copy, "-m", "leyden.new", "model=capsule_net", code=2)
    assert re.search(r"model=capsule_net: .*capsule_net\.(py|yaml) exists", said)
    search = ("-m", "sweep=capsule_net", "dry_run=true", f"data.root={mnist_root}")
    assert "model.hidden_size=256" in call(copy, "-m", "leyden.train", *search)
    assert "class CapsuleNet(nn.Module):" in (package / "models" / "capsule_net.py").read_text()
    objective = ("objective.metric=train/size", "objective.mode=min", f"data.root={mnist_root}")
    said = call(copy, "-m", "leyden.train", "model=capsule_net", "task=ranking", *objective, *QUICK)
    for metric in ("test/loss", "test/acc", "test/size"):
        assert metric in said
    few = ("optimizer=adam", "trainer.max_epochs=3", "callbacks=bare", "logger=none", "run_dir=run")
    call(copy, "-m", "leyden.train", "data=birds", *few)
    learned = json.loads((copy / "run" / "run.json").read_text())["metrics"]["test/acc"]
    assert learned > 0.5  # of three classes
    assert f"{learned:.4f}" in call(copy, "-m", "leyden.evaluate", "run=run")


BATCHES = {
    "forecast": (torch.zeros(4, 2), torch.zeros(4, 3)),
    "regression": (torch.zeros(4, 2), torch.zeros(4)),
    "language": (torch.zeros(4, 5, 3), torch.zeros(4, 5).long()),
    "autoencoder": [torch.rand(4, 1, 4, 4)],
    "contrastive": (torch.rand(4, 1, 8, 8), torch.zeros(4)),
    "classification": (torch.rand(4, 3), torch.tensor([0, 1, 2, 0])),
}


class Coder(torch.nn.Module):
    """Returns a reconstruction, and a code of no bits."""

    def forward(self, inputs):
        return inputs, torch.zeros(4, 2), torch.zeros(4, 2)


LAST = [torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)]
NETWORKS = {
    "forecast": torch.nn.Linear(2, 3),
    "regression": torch.nn.Linear(2, 1),
    "autoencoder": Coder(),
    "contrastive": torch.nn.ModuleDict({"layers": torch.nn.Sequential(*LAST)}),
}


@pytest.mark.parametrize("base", scaffold.TASKS)
def test_a_new_task_begins_as_any_of_the_librarys(base, tmp_path, monkeypatch, capsys):
    for name, value in {"root": tmp_path, "src": tmp_path / "src", "own_packages": ["lab"]}.items():
        monkeypatch.setattr(scaffold, name, lambda *_, value=value: value)
    write_part("task", "ranking", base)
    out = capsys.readouterr().out
    assert "train experiment=ranking" in out or "train task=ranking" in out
    for line in filter(None, out.partition("next steps")[0].splitlines()):
        text = (tmp_path / line).read_text()
        assert "$" not in text, line
    made = {}
    exec((tmp_path / "src" / "lab" / "tasks" / "ranking.py").read_text(), made)
    settings = yaml.safe_load((tmp_path / "conf" / "task" / "ranking.yaml").read_text())
    assert settings.pop("_target_") == "lab.tasks.ranking.Ranking"
    if base == "forecast":
        settings["num_outputs"] = 3
    task = made["Ranking"](network=NETWORKS.get(base, torch.nn.Identity()), **settings)
    task.validation_step(BATCHES[base])
    assert task.val_means.compute().keys() == {"loss", *task.logs}


def test_a_name_that_can_not_be_used_is_refused(capsys):
    for name in ("2nd", "Caps", "class", "none", "null", "a-b", "../x"):
        said = re.escape(f"model={name}: must be the name of a Python module")
        with pytest.raises(UserError, match=said):
            write_part("model", name)
    assert not capsys.readouterr().out


MINE = script(ROOT / "scripts" / "mine.py")
TAKEN = [
    ("", "", "must be the name of a Python package"),
    ("a" * 21, "", "at most 20"),
    ("json", "", "is taken"),
    ("dist", "", "is taken"),  # not there as yet
    ("kanlab", "0.2", "must be a version, such as leyden==0.3"),
    ("kanlab", "x.whl", "there is no such file"),
]


def test_a_name_or_engine_is_refused_before_anything_is_changed(template, monkeypatch):
    monkeypatch.setattr(MINE, "ROOT", template)
    for name, engine, message in TAKEN:
        with pytest.raises(SystemExit, match=message):
            MINE.check(name, engine)


# What kind of file, and its text before and after, OLD and NEW being the names.
RENAMED = [
    (
        "python",
        "import os, OLD.models.mlp as mlp  # OLD.x",
        "import os, NEW.models.mlp as mlp  # OLD.x",
    ),
    (
        "python",
        "if x:\n  import OLD\n  é = f(OLD=OLD.x, y=OLD)",
        "if x:\n  import NEW\n  é = f(OLD=NEW.x, y=NEW)",
    ),
    ("python", "from  OLD import OLD, x; y = OLD.x", "from  NEW import OLD, x; y = OLD.x"),
    ("python", "from OLD.data import (\r\n    x,\r\n)", "from NEW.data import (\r\n    x,\r\n)"),
    ("python", "patch('OLD.data.X', r\"OLD.y\")", "patch('NEW.data.X', r\"NEW.y\")"),
    (
        "yaml",
        "[OLD.x, 'OLD.x', {b: \"OLD.x\"}, é]  # OLD.x",
        "[NEW.x, 'NEW.x', {b: \"NEW.x\"}, é]  # OLD.x",
    ),
    (
        "toml",
        '[OLD]\nname = "OLD" # y\n\n[OLD.a]\nd = ["OLD"]',
        '[OLD]\nname = "NEW" # y\n\n[OLD.a]\nd = ["OLD"]',
    ),
    (
        "toml",
        '[OLD.scripts]\nx = "OLD.x:m"\n[[a]]\nb = "OLD"',
        '[OLD.scripts]\nx = "NEW.x:m"\n[[a]]\nb = "OLD"',
    ),
]
KEPT = (
    "from .OLD import x",
    "from . import OLD",
    "import a.OLD",
    "self.OLD.x(OLD.y)",
    "# from OLD import x",
    "x = 'a OLD.y', 'OLD', b'OLD.y', f'OLD.{y}', 'OLD.'",
)
RENAMED += [("python", text, text) for text in KEPT]
KEPT = ("OLD.x: ${OLD:data}", "a: |-\n  OLD.x", "a: {OLD: y.OLD.x}", "a: OLD.x and y")
RENAMED += [("yaml", text, text) for text in KEPT]
REFUSED = [
    ("python", "import OLD.x\ndef f(OLD):\n    return OLD.x"),
    ("toml", 'OLD = {name = "OLD"}'),
    ("toml", '[OLD]\ndependencies = ["leyden[x]"]\n"OLD.x" = 1\n["OLD.x"]'),
]


def test_a_package_is_renamed_where_it_is_meant():
    for kind, before, after in RENAMED:
        old = before.replace("OLD", MINE.OLD).replace("NEW", "kanlab")
        new = after.replace("OLD", MINE.OLD).replace("NEW", "kanlab")
        assert getattr(MINE, f"in_{kind}")(old, "kanlab") == new
    for kind, text in REFUSED:
        with pytest.raises(ValueError, match=r"edit it first|rename the variable"):
            getattr(MINE, f"in_{kind}")(text.replace("OLD", MINE.OLD), "kanlab")


def test_a_release_takes_the_place_of_the_folder():
    source = 'leyden = {path = "engine"}\n'
    other = "[tool.b]\nleyden = 1\n"
    for name in ("x", "leyden[x]"):
        text = f'[project]\n# OLD\ndependencies = [\n  "NAME",\n  "{name}"]\n[tool.uv.sources]\nSOURCE[tool.a]\nx = "leyden"\n'
        before = text.replace("NAME", "leyden[train]").replace("SOURCE", source)
        new = MINE.depends_on(before + other, "leyden==2")
        assert (
            new
            == text.replace("NAME", "leyden==2").replace("[tool.uv.sources]\nSOURCE", "") + other
        )
    with pytest.raises(ValueError, match="which ENGINE replaces"):  # a dependency that is no folder
        MINE.depends_on('[project]\ndependencies = ["leyden>=0.1"]\n', "leyden==2")


@pytest.mark.parametrize("is_here", [True, False])
def test_the_distribution_of_before_is_uninstalled_if_it_is_of_this_folder(
    is_here, tmp_path, monkeypatch
):
    info = tmp_path / f"{MINE.OLD}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {MINE.OLD}\n")
    place = tmp_path if is_here else tmp_path / "elsewhere"
    (info / "direct_url.json").write_text(json.dumps({"url": place.as_uri()}))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(MINE, "ROOT", tmp_path)
    called = []
    monkeypatch.setattr(MINE.subprocess, "run", lambda words, **how: called.append(words[3:]))
    MINE.uninstall_old()
    wanted = ["uninstall", "--yes", "--quiet", MINE.OLD]
    assert called == ([wanted] if is_here else [])


def test_a_project_without_the_library_names_no_page_of_it_that_is_gone():
    text = MINE.without_engine((ROOT / "AGENTS.md").read_text())
    assert "engine/" not in text


def test_what_can_not_be_made_ones_own_leaves_the_tree_as_it_was(copy):
    (copy / "Makefile").write_text("mine")
    mine = functools.partial(call, copy, "scripts/mine.py", "kanlab", code=1, anew=True)
    assert re.search(r"commit them first(.|\n)*M Makefile", mine())
    git(copy, "checkout", "-q", "Makefile")
    (copy / f"src/{OWN}/models/broken.py").write_text(f"from {OWN}.models import (\n")
    (copy / ".gitignore").write_text("*.aside\n__pycache__/\n")
    commit(copy)
    (copy / f"src/{OWN}/mine.aside").write_text("that git does not know")
    assert "nothing was changed" in mine()
    assert not git(copy, "status", "--porcelain")
    assert (copy / f"src/{OWN}/mine.aside").exists()
