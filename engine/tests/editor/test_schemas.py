"""What an editor is told of `conf/`: every YAML is right by it, a mistake is not. A new file or class needs no test."""

import copy
import fnmatch
import json
from pathlib import Path

import jsonschema
import pytest
from omegaconf import OmegaConf

from leyden import assembly, schema
from leyden.assembly.instantiate import argument_names
from leyden.config.errors import UserError
from leyden.config.paths import ROOT, conf_files
from leyden.data.facts import Facts
from leyden.editor.classes import TRAINERS, find_target
from leyden.editor.schemas import schemas
from leyden.testing.cases import compose
from tests import conf

PATHS = dict(conf_files())
FILES = sorted({*PATHS} - {Path("run_defaults.yaml")})  # a part of train.yaml
FACTS = Facts().missing


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A validator by the name of each schema, as they are read from the disk."""
    made = json.loads(json.dumps(schemas()))
    return {name: jsonschema.Draft7Validator(each) for name, each in made.items()}


def name_of(path):
    return ".".join(path.parent.parts) or path.stem


def read(path):
    return OmegaConf.to_container(OmegaConf.load(PATHS[Path(path)]))


def errors(validator, content):
    found = [jsonschema.exceptions.best_match([error]) for error in validator.iter_errors(content)]
    return [f"{error.json_path.removeprefix('$.')}: {error.message}" for error in found]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_right(written, path):
    assert errors(written[name_of(path)], read(path)) == []


BAD = [
    # In which file what is changed, and the key that an editor marks.
    ("trainer/auto.yaml", {"max_epoch": 3}, "max_epoch"),
    ("trainer/auto.yaml", {"max_epochs": "three"}, "max_epochs"),
    ("trainer/auto.yaml", {"precision": "33-true"}, "precision"),
    ("trainer/auto.yaml", {"callbacks": []}, "callbacks"),  # given by the program
    ("trainer/cpu.yaml", {"acelerator": "cpu"}, "acelerator"),  # its class stands in another file
    ("trainer/cpu.yaml", {"defaults": ["autto"]}, "defaults"),
    ("optimizer/adam.yaml", {"momentum": 0.9}, "momentum"),
    ("optimizer/adam.yaml", {"lr": [0.1]}, "lr"),
    ("optimizer/adam.yaml", {"params": []}, "params"),
    ("scheduler/cosine.yaml", {"eta_max": 1.0}, "eta_max"),
    ("data/table.yaml", {"normalize": "units"}, "normalize"),
    ("data/table.yaml", {"batch_size": 1.5}, "batch_size"),
    ("data/table.yaml", {"batch_sise": 1}, "batch_sise"),
    ("data/table.yaml", {"dataset": {"_target_": "leyden.data.table.Table", "input": "a"}}, "input"),
    ("data/table.yaml", {"dataset": {"_target_": "leyden.data.table.Tabel"}}, "dataset"),
    ("data/folder.yaml", {"num_workers": None}, "num_workers"),
    ("task/classification.yaml", {"task": {"label_smothing": 0.1}}, "label_smothing"),
    ("task/classification.yaml", {"task": {"_target_": "leyden.tasks.classification.Clasification"}}, "task"),
    ("task/classification.yaml", {"objective": {"mode": "maximum"}}, "objective"),
    ("task/metrics/f1.yaml", {"f1": {"average": "mean"}}, "average"),
    ("callbacks/bare.yaml", {"progress": {"refresh": 1}}, "refresh"),
    ("callbacks/bare.yaml", {"checkpoint": {"keep_all": "every"}}, "checkpoint"),
    ("callbacks/stopping/early.yaml", {"patience": 0.5}, "patience"),
    ("callbacks/pruning/median.yaml", {"pruner": {"n_warmup_step": 1}}, "n_warmup_step"),
    ("logger/wandb.yaml", {"wandb": {"offline": "no"}}, "wandb"),
    ("cluster/slurm.yaml", {"cluster": {"time": 60}}, "time"),
    ("cluster/slurm.yaml", {"cluster": {"time_min": "1h"}}, "time_min"),
    ("cluster/slurm_gpu.yaml", {"trainer": {"acelerator": "gpu"}}, "acelerator"),
    ("hydra/sweeper/optuna.yaml", {"num_trial": 3}, "num_trial"),
    ("sweep/random.yaml", {"hydra": {"sweeper": {"num_trial": 3}}}, "num_trial"),
    (
        "sweep/random.yaml",
        {"defaults": [{"override /hydra/sweeper/sampler": "tpe"}, {"overide /model": "x"}]},
        "overide",
    ),
    ("sweep/random.yaml", {"optimiser": {"lr": 0.1}}, "optimiser"),
    ("sweep/random.yaml", {"trainer": {"max_epochs": [1]}}, "max_epochs"),
    ("train.yaml", {"seed": "one"}, "seed"),
    ("train.yaml", {"resume": "sometimes"}, "resume"),
    ("train.yaml", {"sweep": {"pictures": "some"}}, "pictures"),
    ("evaluate.yaml", {"chekpoint": "best"}, "chekpoint"),
    ("predict.yaml", {"invert": "many"}, "invert"),
    ("export.yaml", {"outptu": "x.onnx"}, "outptu"),
]


@pytest.mark.parametrize(("name", "change", "key"), BAD, ids=[f"{name}-{key}" for name, _, key in BAD])
def test_a_mistake_is_marked(written, name, change, key):
    path = next(path for path in FILES if path.as_posix() == name)
    content = merged(read(path), change)
    (error,) = errors(written[name_of(path)], content)
    assert key in error


def merged(content, change):
    content = copy.deepcopy(content)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = merged(content[key], value) if both else value
    return content


LATER = {"lr": "${oc.env:LR}", "weight_decay": "???"}


def test_any_value_can_come_later(written):
    assert errors(written["optimizer"], merged(read("optimizer/adam.yaml"), LATER)) == []


def test_a_network_of_torch_needs_its_arguments(written):
    linear = {"_target_": "torch.nn.Linear", "in_features": 784, "out_features": 10}
    assert errors(written["model"], linear) == []
    del linear["out_features"]
    (error,) = errors(written["model"], linear)
    assert "out_features" in error


@pytest.mark.parametrize(
    "path", [path for path in conf("model") if path.stem != "none"], ids=lambda path: path.stem
)
def test_a_fact_is_no_key_of_a_network(written, path):
    content = read(Path("model") / path.name)
    for fact in FACTS & argument_names(find_target(content["_target_"])):
        assert errors(written["model"], {**content, fact: None})


@pytest.mark.filterwarnings("ignore:The `srun` command")  # where Slurm is installed
@pytest.mark.parametrize("name", TRAINERS)
def test_what_the_program_gives_a_trainer_can_not_be_set(name):
    cfg = compose("trainer=cpu")
    OmegaConf.update(cfg, f"trainer.{name}", True, force_add=True)
    given = dict.fromkeys(("logger", "default_root_dir"))  # of a run
    with pytest.raises(UserError, match=f"trainer.{name}=True: is passed by the program"):
        assembly.plain_trainer(cfg, [], **given)


def test_keys_are_told_of(written):
    """By the docstring of a class, or by the comment of a file."""
    definitions = written["task"].schema["definitions"]
    told = definitions["task:leyden.tasks.classification.Classification"]["properties"]["label_smoothing"]
    assert told["description"].startswith("Part of a label's weight")
    (root,) = [each for each in written["train"].schema["allOf"] if "properties" in each]
    assert "trained" in root["properties"]["freeze"]["description"]
    assert "at once" in root["properties"]["cluster"]["properties"]["num_jobs"]["description"]


def test_each_group_has_its_schema_in_the_settings_of_the_editor():
    mapped = json.loads((ROOT / ".vscode" / "settings.json").read_text())["yaml.schemas"]
    for path in FILES:
        name = name_of(path)
        if name != "hydra.help":  # which nobody writes
            assert fnmatch.fnmatch(f"conf/{path}", mapped[f".vscode/schema/{name}.json"]), "add it"


@pytest.mark.slow(minutes=0.1)
def test_the_command_writes_them(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(schema, "FOLDER", tmp_path / "schema")
    monkeypatch.setattr("sys.argv", ["schema"])
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "gone.json").write_text("{}")
    schema.main()
    assert {path.stem for path in (tmp_path / "schema").iterdir()} == {*map(name_of, FILES)}
    assert str(tmp_path) in capsys.readouterr().out
    assert caplog.text == ""  # Hydra reports a target that it can't import
