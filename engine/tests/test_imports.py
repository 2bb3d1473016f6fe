"""The import rule: downward only, light at the start, nothing that is not declared, and nothing done."""

import ast
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from leyden.config.paths import LIBRARY, ROOT, own_packages
from tests import ENGINE

SRC = LIBRARY.parent
# From the ground up, as they are drawn; a module imports what is below its folder, and its neighbours, in no circle.
HOUSE = (ENGINE / "docs" / "images" / "house.svg").read_text()
DRAWN = re.findall(r'class="floor" x="\d+" y="(\d+)"[^>]*>([^<]+)<', HOUSE)
FLOORS = [name for _, name in sorted(DRAWN, key=lambda floor: -int(floor[0]))]
VERBS = sorted(path.stem for path in LIBRARY.glob("[a-z]*.py"))
# What a command imports only once its configuration is known to be right.
HEAVY = ("torch", "torchvision", "torchmetrics", "lightning", "matplotlib", "tensorboard", "optuna")
DISTRIBUTIONS = {"_pytest": "pytest", "hydra": "hydra-core", "PIL": "pillow", "yaml": "pyyaml"}
MODULES = sorted(LIBRARY.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports(path):
    """Modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in NAMES else node.module


def floor(name):
    folder = name.split(".")[1] if name.count(".") > 0 else ""
    return FLOORS.index(folder) if folder in FLOORS else len(FLOORS) - 1


def test_every_folder_has_its_floor_in_the_drawing_of_the_house():
    folders = {path.parent.relative_to(LIBRARY).as_posix() for path in MODULES} - {".", "conf"}
    assert folders == {*FLOORS} - {"the verbs"}
    assert FLOORS[:3] == ["exact", "verdict", "config"]
    assert FLOORS[-1] == "the verbs"


def test_the_tour_of_the_house_names_modules_that_are_there():
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", (ENGINE / "CONTRIBUTING.md").read_text(), re.M)
    assert {folder for folder, _ in rows} >= {*FLOORS[:-1]}
    words = {(folder, word) for folder, text in rows for word in re.findall(r"`(\w+)`", text)}
    known = {path.relative_to(LIBRARY).with_suffix("").as_posix() for path in MODULES}
    assert [each for each in sorted(words) if not known & {"/".join(each), each[1], f"{each[1]}/__init__"}] == []


def test_imports_run_downward_in_no_circle_and_nothing_names_the_owners_package():
    owners = re.compile(rf"\b({'|'.join(own_packages())})\.(models|data|optimizers|tasks)\b")
    graph = {}
    for path in MODULES:
        name = name_of(path)
        graph[name] = {*imports(path)} & NAMES - {name}
        for imported in imports(path):
            root = imported.split(".")[0]
            assert root not in own_packages(), f"{name} imports {imported}, which is the owner's"
            if root == "leyden" and imported not in (name, "leyden"):
                assert imported.removeprefix("leyden.") not in VERBS, f"{name} imports a verb"
                assert floor(imported) <= floor(name), f"{name} is below {imported}"
        assert not owners.search(_without_examples(path)), path
    for name in NAMES:  # a package is what its modules are made of
        graph[name] -= {package for package in graph[name] if name.startswith(f"{package}.")}
    TopologicalSorter(graph).prepare()


def _without_examples(path):
    """The text of a file, less the lines of its doctests."""
    lines = ["", *path.read_text().splitlines()]
    return "\n".join(line for before, line in itertools.pairwise(lines) if ">>>" not in before + line)


@pytest.mark.parametrize("door", ["exact", "verdict"])
def test_what_can_be_had_alone_knows_nothing_else_of_the_library(door):
    for path in (LIBRARY / door).glob("*.py"):
        for imported in imports(path):
            own = f"{imported}.".startswith(f"leyden.{door}.")
            assert own or imported.split(".")[0] not in ("leyden", "hydra", "omegaconf"), f"{path.name}: {imported}"


def test_a_command_starts_light():
    modules = [f"leyden.{verb}" for verb in VERBS]
    # One after the other in one process: what the first one has imported is in the list of the others, too.
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
    print(name, *sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {line.split()[0]: {*line.split()[1:]} & {*HEAVY} for line in output.splitlines()}
    assert loaded == {name: set() for name in modules}


@pytest.mark.parametrize("argument", ["--help", "optimizer.lrr=1"])
def test_help_and_a_mistyped_key_import_no_more_than_they_need(argument):
    code = "import sys\nfrom leyden.train import main\ntry:\n    main()\nfinally:\n    print(*sys.modules)"
    command = [sys.executable, "-c", code, argument]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    loaded = {*done.stdout.splitlines()[-1].split()}
    assert "leyden.run.command" in loaded
    unneeded = ("rich", "leyden.report", "leyden.run.directory", "leyden.sweep")
    assert [name for name in loaded if name.startswith(unneeded)] == []


def test_what_is_imported_is_declared():
    known = {re.match(r"[\w-]+", text)[0].lower() for text in importlib.metadata.requires("leyden")}
    known |= {*sys.stdlib_module_names, "annotationlib", "leyden", *own_packages()}
    for path in SRC.rglob("*.py"):
        roots = {imported.split(".")[0] for imported in imports(path)}
        assert {DISTRIBUTIONS.get(root, root) for root in roots} <= known, path


def test_verbs_and_functions_are_short():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {verb: lines[f"leyden.{verb}"] for verb in VERBS if lines[f"leyden.{verb}"] > 80} == {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


def test_one_module_instantiates():
    for path in SRC.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        calls = {name for name in used if name.endswith((".instantiate", "utils.call"))}
        assert calls == ({"hydra.utils.instantiate"} if path.name == "hydra.py" else set()), path
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        froms = [node for node in froms if node.module.startswith("hydra")]
        assert not {"instantiate", "call"} & {alias.name for node in froms for alias in node.names}, path


def test_checkpoints_are_read_as_weights_only():
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if ast.unparse(node.func) == "torch.load" or "ckpt_path" in keywords:
                    assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"


# What other libraries do when they are imported is not the question, so they are imported first.
STATES = """
import importlib, logging, os, pkgutil, random, signal, sys, warnings
for name in ("torchvision lightning torchmetrics hydra matplotlib.figure optuna rich.progress pytest PIL.Image "
             "torch.utils.tensorboard onnxruntime").split():
    importlib.import_module(name)
import numpy, torch
from omegaconf import OmegaConf

def state():
    return {
        "sys.path": [*sys.path], "environment": {**os.environ}, "working directory": os.getcwd(), "arguments": [*sys.argv],
        "excepthook": sys.excepthook, "filters": [*warnings.filters], "threads": torch.get_num_threads(),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "python": random.getstate(), "numpy": repr(numpy.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "entropy of numpy": numpy.random.bit_generator.randbits,
        "resolvers": [OmegaConf.has_resolver(name) for name in ("project", "config_groups", "name_of_model", "name_of_data")],
    }

before = state()
import leyden
names = [each.name for each in pkgutil.walk_packages(leyden.__path__, "leyden.")]
for name in names:
    importlib.import_module(name)
after = state()
print(len(names), [key for key in before if before[key] != after[key]])
"""


def test_importing_every_module_changes_nothing():
    kept = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    how = {"capture_output": True, "text": True, "cwd": ROOT, "env": environment}
    done = subprocess.run([sys.executable, "-c", STATES], check=False, **how)
    assert done.returncode == 0, done.stderr
    number, changed = done.stdout.split(maxsplit=1)
    assert int(number) > 80
    assert changed == "[]\n"
