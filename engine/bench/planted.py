"""Thirty planted commits, and whether the action on pull requests says rightly what each does to the numbers.

    python engine/bench/planted.py [FOLDER] [NAME ...]

Ten refactorings change nothing, ten changes alter the rounding, ten are mistakes. Each is a commit of its own on a
copy of the template; a small run of its perceptron with dropout is judged by `engine/action/changed_numbers.py`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MLP = "src/project/models/mlp.py"
RMSPROP = "src/project/optimizers/rmsprop.py"
MNIST = "src/project/data/mnist.py"
TRAINED = ("model.hidden_sizes=[64]", "model.dropout=0.2", "trainer.max_epochs=1")
TRAINED = (*TRAINED, "trainer.limit_train_batches=100", "trainer.log_every_n_steps=1")
TRAINED = (*TRAINED, "callbacks=bare", "callbacks.fingerprint.every_n_steps=1")
TRAINED = (*TRAINED, "logger=csv", "test=false", "trainer.accelerator=cpu")
RIGHT = {"refactoring": ("same",), "rounding": ("rounding",), "mistake": ("numbers", "beyond")}
FORWARD = "outputs_NK: Tensor = self.layers(inputs)"


class Plant(NamedTuple):
    """A planted commit: its kind, and the texts that are replaced in a file."""

    kind: str
    name: str
    file: str
    changes: dict[str, str]


INIT = """        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
"""
APPLIED = """        self.apply(self._begin)

    def _begin(self, layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
"""
LOOP = """            for w in group["params"]:
                if w.grad is None:
                    continue
"""
FILTERED = """            for w in [each for each in group["params"] if each.grad is not None]:
"""
STEP = """                buffer.rsqrt_()
                w.addcmul_(w.grad, buffer, value=-group["lr"])
"""
DIVIDED = """                buffer.sqrt_()
                w.addcdiv_(w.grad, buffer, value=-group["lr"])
"""
SCALED = """                buffer.rsqrt_().mul_(group["lr"])
                w.addcmul_(w.grad, buffer, value=-1)
"""
KERAS_2 = """                torch.sqrt(v, out=buffer)
                buffer.add_(group["eps"])
                w.addcdiv_(w.grad, buffer, value=-group["lr"])
"""
EPS = 'torch.add(v, group["eps"], out=buffer)'
LERP = 'v.lerp_(buffer, 1 - group["rho"])'
SUPER = "super().__init__(root, **kwargs)"
DIGESTS = 'self.digests = check_files(Path(root, "MNIST", "raw"), self.sha256)\n        '
SET_UP = "super().__init__()\n        is_list"
LAST = "self.layers[:-1](inputs)"
SPLIT = f"""hidden_NH = {LAST}
        last = self.layers[-1]
        left_NK = nn.functional.linear(hidden_NH[:, :32], last.weight[:, :32])
        outputs_NK = left_NK + nn.functional.linear(hidden_NH[:, 32:], last.weight[:, 32:], last.bias)"""
TRANSPOSED = f"""hidden_NH = {LAST}
        last = self.layers[-1]
        outputs_NK = (last.weight.double() @ hidden_NH.double().T).T.float() + last.bias"""
DOUBLE = """first = self.layers[1]
        flat_NF = self.layers[0](inputs).double()
        hidden_NH = nn.functional.linear(flat_NF, first.weight.double(), first.bias.double())
        outputs_NK = self.layers[2:](hidden_NH.float())"""
ALWAYS = """hidden_NH = self.layers[:-2](inputs)
        dropped_NH = nn.functional.dropout(hidden_NH, 0.2)  # without self.training
        outputs_NK = self.layers[-1](dropped_NH)"""
PLANTS = [
    Plant(
        "refactoring",
        "another name",
        MLP,
        {
            "sizes = [math": "widths = [math",
            "pairwise(sizes)": "pairwise(widths)",
            "Linear(sizes[-1]": "Linear(widths[-1]",
        },
    ),
    Plant(
        "refactoring",
        "no name for the result",
        MLP,
        {f"{FORWARD}\n        return outputs_NK": "return self.layers(inputs)  # type: ignore"},
    ),
    Plant(
        "refactoring",
        "zip for pairwise",
        MLP,
        {"itertools.pairwise(sizes)": "zip(sizes[:-1], sizes[1:], strict=True)"},
    ),
    Plant("refactoring", "weights by apply", MLP, {INIT: APPLIED}),
    Plant("refactoring", "in place", MLP, {"nn.ReLU()": "nn.ReLU(inplace=True)"}),
    Plant("refactoring", "a filtered loop", RMSPROP, {LOOP: FILTERED}),
    Plant("refactoring", "a buffer of zeros", RMSPROP, {"torch.empty_like": "torch.zeros_like"}),
    Plant(
        "refactoring",
        "square for mul",
        RMSPROP,
        {"torch.mul(w.grad, w.grad, out=buffer)": "torch.square(w.grad, out=buffer)"},
    ),
    Plant(
        "refactoring",
        "checked later",
        MNIST,
        {f"{DIGESTS}{SUPER}": f"{SUPER}\n        {DIGESTS.rstrip()}"},
    ),
    Plant("refactoring", "text", MLP, {"Multilayer perceptron.\n": "A multilayer perceptron.\n"}),
    Plant(
        "rounding",
        "mul and add for lerp",
        RMSPROP,
        {LERP: 'v.mul_(group["rho"]).add_(buffer, alpha=1 - group["rho"])'},
    ),
    Plant("rounding", "a root and a division", RMSPROP, {STEP: DIVIDED}),
    Plant("rounding", "the rate in the buffer", RMSPROP, {STEP: SCALED}),
    Plant("rounding", "two halves of a sum", MLP, {FORWARD: SPLIT}),
    Plant("rounding", "the last layer in float64", MLP, {FORWARD: TRANSPOSED}),
    Plant("rounding", "the first layer in float64", MLP, {FORWARD: DOUBLE}),
    Plant(
        "rounding",
        "times three, by three",
        MLP,
        {FORWARD: "outputs_NK: Tensor = self.layers(inputs) * 3 / 3"},
    ),
    Plant(
        "rounding",
        "inputs by a tenth",
        MLP,
        {FORWARD: "outputs_NK: Tensor = self.layers(inputs * 0.1 / 0.1)"},
    ),
    Plant(
        "rounding",
        "logits without their mean",
        MLP,
        {"return outputs_NK": "return outputs_NK - outputs_NK.mean(dim=1, keepdim=True)"},
    ),
    Plant(
        "rounding",
        "the mean square in float64",
        RMSPROP,
        {LERP: 'v.copy_(v.double().lerp_(buffer.double(), 1 - group["rho"]))'},
    ),
    Plant("mistake", "a forgotten eval()", MLP, {FORWARD: ALWAYS}),
    Plant(
        "mistake",
        "another seed",
        MLP,
        {
            SET_UP: "super().__init__()\n        torch.manual_seed(1)\n        is_list",
            "from torch import": "import torch\nfrom torch import",
        },
    ),
    Plant(
        "mistake",
        "labels of the sample before",
        MNIST,
        {SUPER: f"{SUPER}\n        self.targets = self.targets.roll(1)"},
    ),
    Plant(
        "mistake",
        "labels off by one",
        MNIST,
        {SUPER: f"{SUPER}\n        self.targets = (self.targets + 1) % 10"},
    ),
    Plant("mistake", "epsilon beside the root", RMSPROP, {f"{EPS}\n{STEP}": KERAS_2.lstrip()}),
    Plant("mistake", "no ReLU", MLP, {"nn.ReLU()": "nn.Identity()"}),
    Plant("mistake", "normal weights", MLP, {"xavier_uniform_": "xavier_normal_"}),
    Plant("mistake", "dropout is what is kept", MLP, {"Dropout(dropout)": "Dropout(1 - dropout)"}),
    Plant("mistake", "decay of the other share", RMSPROP, {LERP: 'v.lerp_(buffer, group["rho"])'}),
    Plant(
        "mistake", "pixels divided twice", MLP, {"self.layers(inputs)": "self.layers(inputs / 255)"}
    ),
]


def git(*words: str) -> str:
    """Run git in the copy, and return what it prints."""
    who = ["-c", "user.name=me", "-c", "user.email=me@here"]
    return subprocess.check_output(["git", *who, *words], text=True)


def commit(plant: Plant | None) -> str:
    """Commit what a plant changes, on the first commit, and return the commit."""
    if plant:
        path = Path(plant.file)
        text = path.read_text(encoding="utf-8")
        for old, new in plant.changes.items():
            if old not in text:
                raise ValueError(f"{plant.name}: {plant.file} lacks {old!r}")
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message", plant.name if plant else "base")
    return git("rev-parse", "HEAD").strip()


def copy_to(folder: Path) -> None:
    """Copy the template without the library, and go there."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text("[project]\nname = 'planted'\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/outputs/\n__pycache__/\n", encoding="utf-8")
    os.chdir(folder)
    git("init", "--quiet")


def judge_of_action() -> Any:
    """Import the program of the action."""
    path = HERE.parent / "action" / "changed_numbers.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder: Path, names: list[str]) -> bool:
    """Plant and judge the commits; return whether all were said rightly."""
    copy_to(folder)
    base = commit(None)
    train = [sys.executable, "-m", "leyden.train", f"data.root={ROOT / 'data'}"]
    subprocess.run([*train, "run_dir=outputs/run", *TRAINED], check=True, capture_output=True)
    from leyden.run.directory import Run

    program = judge_of_action()
    num_right = 0
    plants = [plant for plant in PLANTS if not names or plant.name in names]
    for plant in plants:
        git("checkout", "--quiet", "--detach", base)
        head = commit(plant)
        began = time.monotonic()
        found = program.Judge(Run("outputs/run"), base, head, folder / "outputs" / "judged").judge()
        is_right = found.kind in RIGHT[plant.kind]
        num_right += is_right
        verdict = "right" if is_right else "WRONG"
        seconds = time.monotonic() - began
        cells = (verdict, plant.kind, plant.name, found.kind, found.text, f"{seconds:.0f} s")
        print(" | ".join(cells), flush=True)
    print(f"{num_right} of {len(plants)} said rightly")
    return num_right == len(plants)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        there = Path(sys.argv[1]).absolute()
        there.mkdir(parents=True)
        is_done = main(there, sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            is_done = main(Path(temporary).resolve(), [])
    sys.exit(None if is_done else 1)
