"""What a search that is left takes along to nodes, where the code is a copy, elsewhere."""

from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

from leyden.cluster.submit import _with_absolute_paths
from leyden.config.hydra import composing, task_overrides
from leyden.sweep.jobs import sweep_directory


@pytest.mark.parametrize("name", ["search", "it's mine", "a=b, c"])
@pytest.mark.parametrize("data", ["mnist", "own"])
def test_its_places_are_those_of_the_command(tmp_path, name, data):
    with composing():
        cfg = hydra.compose("train", overrides=[f"data={data}", "seed=3"], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.overrides.task = given = [f"data={data}", "seed=3", 'trainer.max_epochs="${seed}"']
    directory = tmp_path / "all of them" / "sweeps" / name
    found = _with_absolute_paths(cfg, directory)
    typed = OverridesParser.create().parse_overrides(task_overrides(found.hydra))
    places = {each.key_or_group: each.value() for each in typed}
    expected = {"outputs": str(tmp_path / "all of them"), "sweep_name": name, "data": data, "seed": 3}
    expected["trainer.max_epochs"] = "${seed}"  # each trial has its own
    if data == "mnist":
        expected["data.root"] = str(Path(cfg.data.root).absolute())
    assert {key: getattr(value, "text", value) for key, value in places.items()} == expected
    assert sweep_directory(found) == directory
    assert task_overrides(cfg.hydra) == given  # as it was
