"""A stricter contract, which a project imports if it wants: networks refuse nonsense by name.

A plain network, whose constructor checks nothing, does not pass it.
"""

from pathlib import Path

import torch
import yaml

from leyden.config.errors import UserError
from leyden.config.paths import conf_files
from leyden.config.values import flatten
from leyden.testing import cases
from leyden.testing.cases import broken, suited_cases

NONSENSE = ("0", "-1", "1.5", "nan", "inf", "true", "null", "word", "[]", "[0]", "[1.5]", "[word]")


def test_a_network_refuses_nonsense_by_name_or_trains(model_file: Path) -> None:
    """A `ValueError` names the argument and says what it must be."""
    model = model_file.stem
    (content,) = (yaml.safe_load(path.read_text(encoding="utf-8")) for _, path in conf_files(f"model/{model}.yaml"))
    for key, usual in flatten(content):
        if isinstance(usual, bool) or not isinstance(usual, int | float | list):
            continue
        for value in NONSENSE:
            _check_value(model, key, value)


def _check_value(model: str, key: str, value: str) -> None:
    case, name = suited_cases(model)[0], key.rpartition(".")[2]
    advice = f"raise ValueError('{name}={value}: must be ...') in its constructor"
    try:
        module = cases.create(model, case, f"model.{key}={value}")
    except UserError as error:
        if not str(error).startswith(f"model: {name}=") or "must be" not in str(error):
            broken(f"model={model} must refuse {key}={value} by name: {advice}", str(error))
        return
    try:
        loss = cases.step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
    except Exception as error:  # a researcher's network raises anything
        broken(f"model={model} accepts {key}={value}, and fails in training: {advice}", cases.describe(error))
    if not loss.isfinite():
        broken(f"model={model} accepts {key}={value}, and its loss is {loss}: {advice}")
