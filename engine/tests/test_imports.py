"""The import rule: downward only, light at the start, nothing that is not declared, and nothing done; and docstrings hold."""

import ast
import concurrent.futures
import doctest
import functools
import importlib.metadata
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from leyden.base import paths
from leyden.base.extras import OF_TRAIN
from leyden.base.paths import LIBRARY, own_packages, prepare_process
from tests import ENGINE, ROOT

SRC = LIBRARY.parent
# From the ground up, as they are drawn; a module imports what is below its folder, and its neighbours, in no circle.
HOUSE = (ENGINE / "docs" / "images" / "house.svg").read_text()
DRAWN = re.findall(r'class="floor" x="\d+" y="(\d+)"[^>]*>([^<]+)<', HOUSE)
FLOORS = [name for _, name in sorted(DRAWN, key=lambda floor: -int(floor[0]))]
VERBS = sorted(path.stem for path in LIBRARY.glob("[a-z]*.py"))
# What a command imports only once its configuration is known to be right.
HEAVY = {*OF_TRAIN}
DISTRIBUTIONS = {"_pytest": "pytest", "hydra": "hydra-core", "PIL": "pillow", "yaml": "pyyaml"}
MODULES = sorted(LIBRARY.rglob("*.py"))
TWICE = {"load", "states", "main"}


def name_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


@functools.cache
def tree(path):
    return [*ast.walk(ast.parse(path.read_text()))]


def nodes(path, *kinds):
    return [node for node in tree(path) if isinstance(node, kinds)]


def imports(path):
    """Modules that a file imports, wherever it does."""
    for node in nodes(path, ast.Import):
        yield from (alias.name for alias in node.names)
    for node in nodes(path, ast.ImportFrom):
        assert node.level == 0, "relative import"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in NAMES else node.module for name in names)


def floor(name):
    folder = name.split(".")[1] if name.count(".") > 0 else ""
    return FLOORS.index(folder) if folder in FLOORS else len(FLOORS) - 1


def test_every_folder_has_its_floor_in_the_drawing_of_the_house_and_its_row_in_the_tour():
    folders = {path.parent.relative_to(LIBRARY).as_posix() for path in MODULES} - {".", "conf"}
    assert folders == {*FLOORS} - {"the verbs"}
    assert FLOORS[:3] == ["exact", "verdict", "base"]
    assert FLOORS[-1] == "the verbs"
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", (ENGINE / "CONTRIBUTING.md").read_text(), re.M)
    assert {folder for folder, _ in rows} >= {*FLOORS[:-1]}
    known = {path.relative_to(LIBRARY).with_suffix("").as_posix() for path in MODULES}
    for folder, text in rows:
        for word in re.findall(r"`(\w+)`", text):
            assert known & {f"{folder}/{word}", word, f"{word}/__init__"}, f"{folder}: {word}"


def test_imports_run_downward_in_no_circle_and_nothing_names_the_owners_package():
    owners = re.compile(rf"\b({'|'.join(own_packages())})\.(models|data|optimizers|tasks)\b")
    graph = {}
    for path in MODULES:
        name = name_of(path)
        graph[name] = {*imports(path)} & NAMES - {name}
        for imported in imports(path):
            root, *_ = imported.split(".")
            told = f"{name} imports {imported}"
            assert root not in own_packages(), told
            if root == "leyden" and imported not in ("leyden", name):
                assert imported.removeprefix("leyden.") not in VERBS, told
                assert floor(imported) <= floor(name), told
            if path.parent.name in ("exact", "verdict"):  # which can be had alone
                is_own = f"{imported}.".startswith(f"leyden.{path.parent.name}.")
                assert is_own or root not in ("leyden", "hydra", "omegaconf"), told
        before = ""
        for line in path.read_text().splitlines():
            is_example = ">>>" in before + line
            assert is_example or not owners.search(line), path
            before = line
    for name in NAMES:  # a package is what its modules are made of
        graph[name] -= {package for package in graph[name] if name.startswith(f"{package}.")}
    TopologicalSorter(graph).prepare()


def test_a_command_starts_light():
    modules = [f"leyden.{verb}" for verb in VERBS]
    # One after the other in one process: what the first one has imported is in the list of the others, too.
    code = (
        "import sys\nfor name in sys.argv[1:]:\n    __import__(name)\n    print(name, *sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code, *modules], text=True)
    lines = output.splitlines()
    assert len(lines) == len(modules)
    for line in lines:
        name, *loaded = line.split()
        assert not HEAVY & {*loaded}, name


# How OpenMP's threads wait and what pages memory has: set before PyTorch is there, and never against what was set.
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
UNNEEDED = ("rich", "leyden.report", "leyden.run.directory", "leyden.sweep", "torch")
STARTED = """
import os, sys
from leyden.{} import main
try:
    main()
finally:
    print(os.environ["GOMP_SPINCOUNT"], os.environ["THP_MEM_ALLOC_ENABLE"], *sys.modules)
"""


# The last one is not Hydra's.
@pytest.mark.parametrize(
    ("typed", "needed", "unneeded"),
    [
        ("train --help", "run.command", UNNEEDED),
        ("train optimizer.lrr=1", "run.command", UNNEEDED),
        ("runs --help", "base.errors", (*UNNEEDED, "hydra")),
    ],
)
def test_help_and_a_mistyped_key_import_no_more_than_they_need_and_set_how_threads_wait(
    typed, needed, unneeded
):
    verb, argument = typed.split()
    command = [sys.executable, "-c", STARTED.format(verb), argument]
    clean = {key: value for key, value in os.environ.items() if key not in OURS}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean)
    spins, pages, *loaded = done.stdout.splitlines()[-1].split()
    assert spins == "30000"
    assert pages == "1"
    assert f"leyden.{needed}" in loaded
    assert [name for name in loaded if name.startswith(unneeded)] == []


def declared(*extras):
    """Names of the distributions that these extras name; all of them without an argument."""
    found = set()
    for text in importlib.metadata.requires("leyden"):
        extra = re.search(r"extra == \W(\w+)", text)
        if not extras or (extra[1] if extra else "") in extras:
            found.add(re.match(r"[\w-]+", text)[0].lower())
    return found


def top_level_names(path):
    """Public names of functions, classes and variables that a module defines."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def test_no_two_modules_define_the_same_public_name():
    homes = {}
    for path in MODULES:
        for name in {*top_level_names(path)}:
            homes.setdefault(name, []).append(name_of(path))
    for name, found in homes.items():
        is_public = not name.startswith("_")
        if is_public and name not in TWICE:
            assert len(found) == 1, name


def test_what_is_imported_is_declared_by_the_extra_that_has_it():
    common = {*sys.stdlib_module_names, "annotationlib", "leyden", *own_packages()}
    extras = {"exact": ("", "exact"), "verdict": ("",)}
    for path in MODULES:
        roots = {imported.split(".")[0] for imported in imports(path)}
        known = common | declared(*extras.get(path.parent.name, ()))
        assert {DISTRIBUTIONS.get(root, root) for root in roots} <= known, path
    of_train = {DISTRIBUTIONS.get(name, name) for name in OF_TRAIN}
    assert of_train == declared("exact", "train") - {"leyden", "cmaes"}  # which Optuna imports


def test_verbs_and_functions_are_short():
    for verb in VERBS:
        lines = (LIBRARY / f"{verb}.py").read_text().splitlines()
        assert len(lines) <= 90, verb
    for path in MODULES:
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_one_module_instantiates_and_checkpoints_are_read_as_weights_only():
    for path in MODULES:
        used = {ast.unparse(node) for node in nodes(path, ast.Attribute)}
        calls = {name for name in used if name.endswith((".instantiate", "utils.call"))}
        assert calls == ({"hydra.utils.instantiate"} if path.name == "hydra.py" else set()), path
        for node in nodes(path, ast.ImportFrom):
            if node.module.startswith("hydra"):
                imported = {alias.name for alias in node.names}
                assert not {"instantiate", "call"} & imported, path
        for node in nodes(path, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if ast.unparse(node.func) == "torch.load" or "ckpt_path" in keywords:
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"


def state():
    """What all of a process shares."""
    resolvers = ("project", "config_groups", "name_of_model", "name_of_data")
    return {
        "working directory, arguments": (Path.cwd(), [*sys.argv]),
        "sys.path": [*sys.path],
        "environment": {**os.environ},
        "excepthook, threads": (sys.excepthook, torch.get_num_threads()),
        "filters": [*warnings.filters],
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "resolvers": [OmegaConf.has_resolver(name) for name in resolvers],
        "random": (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()),
        "entropy of numpy": np.random.bit_generator.randbits,
    }


def changed_by_importing_all():
    """What importing all modules changes of a state that none of them has made: for a copy of this process.

    What other libraries do when they are imported is not the question, so these stay.
    """
    for path in MODULES:
        importlib.import_module(name_of(path))
    for name in [name for name in sys.modules if f"{name}.".startswith("leyden.")]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if folder not in (str(ROOT), str(ROOT / "src"))]
    for name in {*os.environ} - {"PATH", "LEYDEN_PROJECT"}:
        del os.environ[name]
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, print)
    sys.excepthook = sys.__excepthook__
    warnings.resetwarnings()
    OmegaConf.clear_resolvers()
    torch.set_num_threads(3)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(12345)
    before = state()
    for path in MODULES:
        importlib.import_module(name_of(path))
    found = sys.modules["leyden.base.paths"]._found
    changed = [name for name, value in state().items() if value != before[name]]
    return changed if found is None else [*changed, f"project {found}"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_importing_every_module_changes_nothing():
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(changed_by_importing_all).result() == []


def test_the_project_is_found_when_it_is_first_asked_for_and_stays(monkeypatch, tmp_path):
    monkeypatch.delenv("LEYDEN_PROJECT", raising=False)
    monkeypatch.setattr(paths, "_found", None)
    monkeypatch.chdir(tmp_path)
    assert paths.project() is None
    assert paths.root() == tmp_path
    for folder in (ROOT / "conf" / "model", tmp_path):
        monkeypatch.chdir(folder)
        assert paths.project() == paths.root() == ROOT


@pytest.mark.parametrize(
    ("key", "value", "spins", "pages"),
    [
        ("GOMP_SPINCOUNT", "7", "7", "1"),
        ("OMP_WAIT_POLICY", "PASSIVE", None, "1"),
        ("THP_MEM_ALLOC_ENABLE", "0", "30000", "0"),
    ],
)
def test_how_threads_wait_stays_as_the_user_has_set_it(monkeypatch, key, value, spins, pages):
    for each in OURS:
        monkeypatch.setenv(each, "")  # it is as it was after the test
        monkeypatch.delenv(each)
    monkeypatch.setenv(key, value)
    prepare_process()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == pages


@pytest.mark.parametrize("name", [name_of(path) for path in MODULES if ">>> " in path.read_text()])
def test_an_example_in_a_docstring_holds(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed
