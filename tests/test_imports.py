"""The import rule: what each module may import of the project and of the heavy libraries."""

import ast

import pytest

from leyden.config import ROOT

SRC = ROOT / "src" / "leyden"
HEAVY = {"hydra", "omegaconf", "lightning", "torch", "torchvision", "torchmetrics", "numpy", "PIL", "rich"}
HEAVY |= {"filelock", "yaml", "matplotlib", "tensorboard", "optuna", "submitit"}
# Longest matching name wins. `leyden.x` allows that module, `leyden.x.` all below it.
MAY_IMPORT = {
    "config": {"hydra", "omegaconf"},
    "command": {"hydra", "omegaconf", "leyden.config"},
    "provenance": {"leyden.config", "leyden.cluster.slurm"},
    "plain": set(),
    "picture": {"matplotlib"},
    "run": {"filelock", "yaml", "leyden.config", "leyden.plain", "leyden.provenance", "leyden.cluster.slurm"},
    "hparams": {"tensorboard", "leyden.config", "leyden.run", "leyden.runs"},
    "sheet": {"matplotlib", "numpy"},
    "looks": {"filelock", "leyden.provenance", "leyden.run"},
    "stored": {"hydra", "omegaconf", "leyden.config", "leyden.plain", "leyden.run"},
    "heavy": {"leyden.build"},
    "build": {"hydra", "omegaconf", "lightning", "torch", "leyden."},
    "train": {"hydra", "omegaconf", "rich", "lightning", "leyden."},
    "evaluate": {"omegaconf", "rich", "leyden."},
    "export": {"omegaconf", "rich", "torch", "leyden."},
    "predict": {"omegaconf", "rich", "torch", "numpy", "PIL", "leyden."},
    "runs": {"leyden.config", "leyden.plain", "leyden.run", "leyden.cluster.slurm"},
    "summarize": {"rich", "leyden.config", "leyden.picture", "leyden.run", "leyden.runs"},
    "sweep.": {
        "hydra",
        "omegaconf",
        "optuna",
        "lightning",
        "torch",
        "rich",
        "filelock",
        "leyden.config",
        "leyden.run",
    }
    | {"leyden.heavy", "leyden.hparams", "leyden.summarize", "leyden.sweep."},
    "cluster.slurm": set(),
    "cluster.preemption": {"lightning", "torch", "leyden.callbacks.sparse", "leyden.cluster.slurm"},
    "cluster.snapshot": {"leyden.config", "leyden.provenance"},
    "cluster.job": {"hydra", "omegaconf", "leyden.run", "leyden.sweep."},
    "cluster.submit": {"omegaconf", "submitit", "leyden.config", "leyden.cluster.", "leyden.sweep."},
    "classifier": {"lightning", "torch", "torchmetrics"},
    "loggers.": {"lightning", "filelock"},
    "optim": {"torch"},
    "data.": {"torch", "torchvision", "lightning", "numpy", "rich", "filelock", "leyden.data."},
    "models.": {"torch"},
    "callbacks.": {"lightning", "torch", "numpy", "rich", "matplotlib", "leyden.callbacks."}
    | {"leyden.plain", "leyden.run", "leyden.sheet"},
}
ENTRY_POINTS = {"leyden.train", "leyden.evaluate", "leyden.predict", "leyden.export"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            folder = SRC.parent.joinpath(*node.module.split("."))
            if folder.is_dir():  # a package: what is imported are its modules
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_a_module_imports_only_what_it_may(path):
    name = ".".join(path.relative_to(SRC).with_suffix("").parts)
    if path.name == "__init__.py":
        allowed = set()
    else:
        (rule,) = [rule for rule in MAY_IMPORT if name == rule or (rule.endswith(".") and name.startswith(rule))]
        allowed = MAY_IMPORT[rule]
    for imported in imports(path):
        root = imported.split(".")[0]
        if root == "leyden":
            assert imported not in ENTRY_POINTS, f"{name} imports an entry point"
            assert imported in allowed or any(a.endswith(".") and imported.startswith(a) for a in allowed), imported
        elif root in HEAVY:
            assert root in allowed, imported


def test_models_init_stays_empty():
    assert (SRC / "models" / "__init__.py").read_text() == ""


def test_only_build_instantiates():
    for path in SRC.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert path.name == "build.py" or not {"instantiate", "call"} & imported, path
        assert path.name == "build.py" or not [
            name for name in used if name.endswith((".instantiate", "utils.call"))
        ]


def test_checkpoints_are_read_as_weights_only():
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "trainer.fit",
                "trainer.validate",
                "trainer.test",
            ):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if ast.unparse(node.func) == "torch.load" or "ckpt_path" in keywords:
                    assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
