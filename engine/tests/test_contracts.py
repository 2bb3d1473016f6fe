"""The contracts of config files, over the project's files and the library's own, and what is asked of these alone.

The contracts of networks and data, and of the project's files, are run by its own tests, which `make test` and CI run.
"""

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml

from leyden.base.errors import UserError
from leyden.base.paths import conf_files
from leyden.config.values import flatten
from leyden.testing import contracts
from leyden.testing.contracts import compose, create, step, suited_cases
from tests import CONF, conf

test_a_task_trains_a_network = pytest.mark.matrix(contracts.test_a_task_trains_a_network)
OF_LIBRARY = [name for name, path in conf_files("*/**/*.yaml") if not path.is_relative_to(CONF)]
NONSENSE = ("0", "-1", "1.5", "nan", "inf", "true", "null", "word", "[]", "[0]", "[1.5]", "[word]")


@pytest.mark.parametrize(
    "file", sorted(name for name in OF_LIBRARY if name.parts[0] != "hydra"), ids=str
)
def test_a_config_file_of_the_library_composes_and_creates_what_it_names(file):
    contracts.test_a_config_file_composes_and_creates_what_it_names(file)


@pytest.mark.parametrize("path", conf("sweep"), ids=lambda path: path.stem)
def test_a_search_says_how_it_is_started_and_is_for_any_network_or_chooses_its_own(path):
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    assert "override /hydra/sweeper: " in text
    assert path.stem == "given" or f"leyden train -m sweep={path.stem}" in text
    if "model." in str(yaml.safe_load(text).get("hydra")):
        assert "override /model: " in text, "it names keys of a network"
    if Path("model", path.name) in dict(conf_files()):
        assert compose(f"sweep={path.stem}").model == compose(f"model={path.stem}").model


@pytest.mark.parametrize("path", conf("experiment"), ids=lambda path: path.stem)
def test_an_experiment_is_a_delta_with_its_name_and_says_what_to_expect(path):
    text = path.read_text()
    head = text[: text.index("name:")]
    assert head.startswith("# @package _global_\n")
    assert yaml.safe_load(text)["name"] == path.stem
    assert re.search(rf"leyden train( -m)? experiment={path.stem}\b", head)
    assert re.search(r"(test|val)/\w+,? .*?[\d.]+", head), "the measured score"
    assert " s " in head, "the time it takes"


@pytest.mark.matrix
def test_a_network_refuses_nonsense_by_name_or_trains_with_it(model_file):
    model = model_file.stem
    case = suited_cases(model_file.stem)[0]
    (content,) = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for _, path in conf_files(f"model/{model}.yaml")
    )
    numbers = [key for key, usual in flatten(content) if type(usual) in (int, float, list)]
    for key in numbers:
        for value in NONSENSE:
            try:
                module = create(model, case, f"model.{key}={value}")
            except UserError as error:
                begins = f"model: {key.rpartition('.')[2]}="
                refused = str(error).startswith(begins) and "must be" in str(error)
                assert refused, f"model={model} must refuse {key}={value} by name"
            else:
                loss = step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
                assert loss.isfinite(), f"model={model} accepts {key}={value}"


@pytest.mark.slow
@pytest.mark.nightly  # a run is compiled by day: tests/training/test_start.py
def test_a_network_takes_a_step_compiled(model_file, monkeypatch):
    model = model_file.stem
    case = suited_cases(model_file.stem)[0]
    # C++ of a large one takes minutes: it is traced and differentiated, but no C++ is made of that.
    if len([*create(model, case).modules()]) > 10:
        compile_it = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
        monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    plain = create(model, case, "compile=false").eval()
    compiled = create(model, case, "compile=true").eval()
    assert list(plain.state_dict()) == list(compiled.state_dict())
    loss = compiled.step(case.batch).loss
    loss.backward()
    torch.testing.assert_close(loss, plain.step(case.batch).loss, rtol=1e-4, atol=1e-4)
