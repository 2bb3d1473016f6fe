"""A run is made anew from its directory, and what is not the same any more is found."""

import csv
import hashlib
import json
import re
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from leyden.base.errors import UserError
from leyden.run import provenance
from leyden.run.directory import Run
from leyden.trained import reproduction
from tests import ENGINE, ROOT, conf, example, records
from tests.conftest import SMALL
from tests.example import git
from tests.reproduction.conftest import start

SHORT = (
    "model.dropout=0.2",
    "logger=none",
    "trainer.max_epochs=1",
    "callbacks=bare",
    "callbacks.fingerprint.every_n_steps=5",
)


def set_code(run, **told):
    starts = run.starts
    starts[-1]["git"] = {"dirty": False, "diff": "", "left_out": [], **told}
    records.put(run.directory, starts=starts)


@pytest.mark.slow(minutes=0.2)
def test_a_run_is_made_anew_and_changed_code_is_found(
    call, command, repository, commit, tmp_path, monkeypatch
):
    trained = Run(tmp_path / "run")
    again = Run(tmp_path / "again")
    command("train", f"run_dir={trained.directory}", *SMALL, *SHORT)
    # As if it had been made by the commit of the repository and a new file.
    (repository / "new file.py").write_text("a = 1\n")
    git(repository, "add", "--intent-to-add", "new file.py")
    set_code(trained, sha=commit[1], dirty=True, diff=git(repository, "diff", "--binary", "HEAD"))
    git(repository, "rm", "-qf", "new file.py")
    monkeypatch.setenv("PYTHONHASHSEED", "3")  # not in the run, and stays as it is here
    anew = (f"run={trained.directory}", f"data_root={ROOT / 'data'}")
    code, told = call(*anew, f"output={again.directory}")
    assert code == 0, told
    assert "equal, bit for bit, over all 2 fingerprints that both have, up to step 10" in told
    assert again.config | {"logger": {}} == trained.config  # loggers are the project's own
    # Nothing differs but what is another one here.
    rows = told.partition("up to step 10")[2].splitlines()[1:]
    assert [row.split()[-2:] for row in rows if row.strip()][1:] == [
        ["variables.PYTHONHASHSEED", '"3"']
    ], told
    # The test set was looked at, which must be recorded.
    assert len(records.table(repository / "outputs" / "test_evaluations.csv")) == 1
    longer = [each for each in (*SMALL, *SHORT) if "max_epochs" not in each]
    command("train", f"run_dir={again.directory}", *longer, "trainer.max_epochs=2")
    assert again.starts[0]["overrides"] == [*again.overrides]
    assert "model.dropout=0.2" in again.overrides

    # The same by a commit whose network starts with other weights.
    path = next(repository.glob("src/*/models/mlp.py"))
    before = path.read_text()
    path.write_text(before.replace("xavier_uniform_", "xavier_normal_"))
    assert path.read_text() != before
    git(repository, "commit", "-q", "-a", "-m", "second")
    set_code(trained, sha=git(repository, "rev-parse", "HEAD").strip())
    code, told = call(*anew)
    assert code == 2, told
    assert "imported other code than the run's: project/models/mlp.py" in told, told
    starts = trained.starts
    del starts[-1]["code"]
    records.put(trained.directory, starts=starts)
    code, told = call(*anew, "threads=1")
    assert code == 1, told
    assert "diverged: step 5 is the first fingerprint that differs, in weights, optimizer" in told
    assert re.search(r"val/loss +[0-9.]+ +[0-9.]+\n", told)


A = "a" * 40
SAVED = {"sha": "", "left_out": []}  # the commit of the repository takes the place of an empty one
OUTSIDE = "--- /dev/null\n+++ b/../../evil\n@@ -0,0 +1 @@\n+x\n"
NODES = {"trainer": {"accelerator": "cpu", "devices": 1, "num_nodes": 2}}
# Of a run written by hand: its code, its configuration, further arguments; and what is said.
REFUSED = [
    ([], {}, "", "has no record of a start"),
    ([A, "b" * 40], {}, "", "start 2 used different code than start 1"),
    ([None], {}, "", "records no commit"),
    ([A], {}, "", "commit aaaaaaaaaaaa of the run is not in this repository; git fetch may get it"),
    (
        [{**SAVED, "left_out": ["a.bin", "b/"]}],
        {},
        "",
        "with the run: a.bin, b/ (a repository of its own)",
    ),
    ([{**SAVED, "diff": None}], {}, "", "code was not saved with the run: all changes"),
    ([{**SAVED, "diff": "x"}], {}, "", "changes of the code can't be applied to its commit"),
    ([{**SAVED, "diff": OUTSIDE}], {}, "", "changes of the code can't be applied to its commit"),
    ([""], {"name": "${x}"}, "", "can't be written so that Hydra reads it unchanged"),
    ([""], NODES, "", "its training ended with 2"),
    ([""], {"init_from": "x"}, "", "None: is not there any more, or is not the checkpoint"),
    ([""], {}, "data_root=x", "data_root=x: has no effect"),
    ([""], {}, "threads=0", "threads=0: must be a positive whole number"),
    ([""], {}, "output=RUN", "is not empty"),
    ([""], {}, "against=RUN threads=2", "threads: has no effect with against="),
]


@pytest.mark.parametrize(("codes", "config", "arguments", "message"), REFUSED)
@pytest.mark.usefixtures("repository")
def test_what_can_not_be_made_anew_is_a_line(call, make, commit, codes, config, arguments, message):
    starts = [start("") for _ in codes]
    for each, code in zip(starts, codes, strict=True):
        kept = each["git"]
        kept |= code if isinstance(code, dict) else {"sha": code}
        if kept["sha"] == "":
            kept["sha"] = commit[1]
    run = make(starts=starts, config=config)
    refused(call, message, f"run={run}", *arguments.replace("RUN", str(run)).split())


def refused(call, message, *arguments):
    code, told = call(*arguments)
    assert code == 2, told
    assert message in told, told
    assert len([line for line in told.splitlines() if line.startswith("leyden: ")]) <= 2, told


@pytest.mark.usefixtures("repository")
def test_a_run_without_a_directory_fingerprints_or_a_repository_is_not_trained(
    call, make, monkeypatch, tmp_path
):
    refused(call, "run=DIR: is missing; name a run directory")
    refused(call, "not a run directory", "run=nowhere")
    refused(call, "has no fingerprint.csv", f"run={make(fingerprints='')}")
    monkeypatch.setattr(reproduction, "root", lambda: tmp_path)
    refused(call, "is no git repository", f"run={make('other')}")


def test_git_bisect_skips_what_can_not_be_trained(make, call, repository, monkeypatch):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(reproduction, "_train", fail)
    run = f"run={make()}"
    for words in ([run], [run, "threads=0"], ["run=nowhere"]):
        assert call(*words, "exit=bisect")[0] == 125, words
    assert call("run=nowhere", "exit=all")[0] == 2


@pytest.mark.slow(minutes=0.7)
def test_git_bisect_finds_a_planted_mistake(tmp_path, monkeypatch):
    planted = example.script(ENGINE / "bench" / "planted.py")
    by_name = {plant.name: plant for plant in planted.PLANTS}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEYDEN_PROJECT", raising=False)  # the tests' own
    planted.copy_to(tmp_path)
    good = planted.commit(None)
    few = ("trainer.limit_train_batches=5", f"data.root={ROOT / 'data'}", "run_dir=outputs/run")
    train = [sys.executable, "-m", "leyden.train", *planted.TRAINED, *few]
    subprocess.run(train, check=True, capture_output=True)
    planted.commit(by_name["text"])
    mistake = planted.commit(by_name["labels of the sample before"])
    bad = planted.commit(by_name["zip for pairwise"])
    git(tmp_path, "bisect", "start", bad, good)
    words = ("-m", "leyden", "reproduce", "run=outputs/run", "exit=bisect")
    told = git(tmp_path, "bisect", "run", sys.executable, *words)
    assert f"{mistake} is the first bad commit" in told, told


@pytest.fixture
def given(repository, monkeypatch):
    """What the training of a run that is written by hand is given: the configuration and the environment."""
    found = {}

    def take(tree, folder, environment):
        settings = OmegaConf.to_container(OmegaConf.load(f"{folder}/recorded.yaml"))
        found.update(
            settings=settings,
            environment=environment,
            git=json.loads((tree / "git.json").read_text()),
        )

    monkeypatch.setattr(reproduction, "_train", take)
    monkeypatch.setattr(reproduction, "_record_overrides", lambda *arguments: None)
    monkeypatch.setattr(reproduction, "_check_imported", lambda *arguments: None)
    for name in ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_the_test_set_is_looked_at_only_if_the_run_did(make, given, repository):
    for name, metrics in {"none": None, "no": {"val/acc": 1.0}, "yes": {"test/acc": 1.0}}.items():
        reproduction.reproduce(Run(make(name, metrics=metrics)))
        assert given["settings"]["test"] is (name == "yes")
        assert given["settings"]["run_dir"].startswith(f"{repository}/outputs/reproduced/{name}/")


def test_a_fork_is_made_anew_from_the_checkpoint_that_it_started_from(
    make, given, commit, tmp_path
):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"weights")
    parent = {"checkpoint": str(path), "sha256": hashlib.sha256(b"weights").hexdigest()}
    run = Run(make(config={"fork": str(tmp_path)}, starts=[start(commit[1], parent=parent)]))
    reproduction.reproduce(run)
    assert given["settings"]["fork"] == str(tmp_path)
    path.write_bytes(b"others")
    changed = r"last\.ckpt: is not there any more, or is not the checkpoint from which"
    with pytest.raises(UserError, match=changed):
        reproduction.reproduce(run)


def test_the_configuration_is_that_of_the_run_value_by_value(make, given):
    """A text that looks like a number is none, and neither is such a key."""
    odd = [
        "1e5",
        "1e-3",
        "on",
        "",
        "a\nb",
        " x",
        "0x1f",
        "1_000",
        "12:30:45",
        "~",
        "é",
        "\x1b",
        1e-7,
        True,
        None,
    ]
    config = {
        "data": {"root": "/nowhere", "a": odd, "1e5": 1, "1": odd, "b": [{"c": [1e5]}]},
        "logger": {"a": {}},
    }
    run = make(config=config)
    reproduction.reproduce(Run(run))
    assert repr(given["settings"]["data"]) == repr(config["data"])
    assert "logger" not in given["settings"]
    # A download would create it.
    with pytest.raises(UserError, match="data_root=there: no such folder"):
        reproduction.reproduce(Run(run), data_root="there")
    reproduction.reproduce(Run(run), data_root="tests")
    assert given["settings"]["data"]["root"].endswith("/tests")


def test_threads_variables_and_kind_of_processor_are_those_of_the_run(
    make, given, commit, monkeypatch
):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")  # as somebody types who asks what it changes
    machine = {"threads": 4, "gpus": [], "variables": {"MKL_CBWR": "COMPATIBLE"}}
    run = Run(make(starts=[start(commit[1], machine=machine)]))
    for threads in (None, 2):
        reproduction.reproduce(run, threads=threads)
        environment = given["environment"]
        assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == str(threads or 4)
        assert environment["MKL_CBWR"] == "COMPATIBLE"
        assert environment["ATEN_CPU_CAPABILITY"] == "avx2"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert given["git"] == run.starts[-1]["git"]
    reproduction.reproduce(Run(make("unknown", starts=[start(commit[1], machine=None)])))
    assert not {"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"} & {*given["environment"]}


def test_a_record_has_what_can_change_bits(monkeypatch):
    """All packages that pip knows, threads as Lightning divides them, and those variables alone that are on the list."""
    # Of this machine, or of another test's trainer.
    for name in ("OMP_NUM_THREADS", *provenance.VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("MY_SECRET", "x")
    monkeypatch.setattr(provenance, "num_cores", lambda: 8)
    found = json.loads(json.dumps(provenance.machine(num_processes=4)))
    assert found["threads"] == 2
    assert found["variables"] == {"MKL_CBWR": "AVX2"}
    versions = provenance.installed_versions()
    assert {"torch", "hydra-core", "leyden", "pytest", "markupsafe"} <= {*versions}
    assert all(name == name.lower() for name in versions)


def test_each_recipe_was_made_anew():
    with (ENGINE / "docs" / "tables" / "proof.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    recipes = {path.stem for path in conf("experiment")}
    assert {row[0] for row in rows} == {"default", *recipes}
    for row in rows:
        assert int(row[2]) > 0
