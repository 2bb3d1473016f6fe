"""Files that come from somebody else do nothing but what they say: they run no code, write nowhere, and hang nothing."""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import secrets
import shutil
import sys
import zipfile
from dataclasses import replace

import hydra
import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from PIL import Image

import leyden
from leyden.assembly import roles, trust
from leyden.assembly.trust import _allowed, problem_of_run, trusted_config
from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.data.facts import DOWNLOAD_ARGUMENTS
from leyden.run.directory import Run
from tests import conf, records
from tests.conftest import QUICK, finish, here, start
from tests.example import OWN
from tests.records import forget_result

VERBS = ("evaluate", "predict", "export")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mnist_root):
    place = tmp_path_factory.mktemp("trained")
    assert here("train", f"run_dir={place / 'run'}", f"outputs={place}", *QUICK, "trainer.max_epochs=1") == 0
    return place / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A finished run of one epoch, to be damaged."""
    return Run(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def put_to_use(run, cli, tmp_path):
    """Calls a command on the run; returns its exit code and all that it printed."""

    def call(verb, *more):
        inputs = (f"images={image(tmp_path)}",) if verb == "predict" else ()
        code, out, err = cli(verb, f"run={run.directory}", *inputs, *more)
        return code, out + err

    return call


def poison(checkpoint, path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "payload": Payload(path)}, checkpoint)


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_a_checkpoint_with_a_pickle_payload_is_refused(run, cli, put_to_use, tmp_path, verb):
    for name in ("best", "last"):
        poison(run.directory / "checkpoints" / f"{name}.ckpt", tmp_path / "executed")
    forget_result(run.directory)
    if verb == "train":
        code, _, text = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=1")
    else:
        code, text = put_to_use(verb)
    assert code == 2
    assert "best.ckpt is refused" in text or "last.ckpt is refused" in text
    assert not (tmp_path / "executed").exists()


def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(path)
    return path


TARGETS = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.run",
    "torch.hub.load",
    "torch.load",
    "torch.nn.modules.module.torch.hub.load",  # by way of a module that has imported torch
    "leyden.run.os.system",
    f"{OWN}.models.mlp.math.sqrt",
    "leyden.run.provenance.git",
    f"{OWN}.data.mnist._from_package_index",
    "torchvision.datasets.utils.download_url",
    "torchvision.datasets.Caltech101",  # makes folders
    "torchvision.datasets.INaturalist",
    "torchvision.models._api.WeightsEnum.get_state_dict",  # fetches from `self.url`, and unpickles
    "torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict",
    "torchvision.models._api.get_weight",
    "torchvision.models.get_model",  # would call any builder, with weights
    "torchvision.models.detection.ssd300_vgg16",  # fetches a backbone unless it is told not to
    "torchvision.models.resnet18.__wrapped__",
    "torch.nn.Module.load_state_dict",
    "torch.nn.parallel.DistributedDataParallel",
    f"{OWN}.models.mlp.MLP.__class__",
    "leyden.loggers.mlflow.MLflow",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.profilers.AdvancedProfiler",
    "lightning.pytorch.callbacks.nothing",
    "leyden.train.main",
    "hydra.utils.instantiate",
    "leyden.assembly.trust.hydra.utils.call",
    "",
    "${oc.env:HOME}",
    None,
    ["os.system"],
]
PLACES = [
    "model",
    "model.hidden_sizes",
    "model.layers.0.x",
    "data",
    "data.dataset",
    "data.dataset.transform",
    "data.root",
    "trainer.precision",
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_config_that_names_another_target_is_refused(tmp_path, target, place):
    node = {"_target_": target, "_convert_": "none", "self": {"url": f"file://{tmp_path}/x.pt"}, "progress": False}
    with pytest.raises(UserError, match="is refused"):
        trusted_config(written(tmp_path, place, node))


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torchvision.models.resnet18", "weights": "IMAGENET1K_V1"},
        {"_target_": "torchvision.models.resnet18", "pretrained": True},
        {"_target_": "torchvision.models.resnet18", "_args_": ["IMAGENET1K_V1"]},
    ],
)
def test_a_network_that_would_fetch_its_weights_is_refused(tmp_path, node):
    with pytest.raises(UserError, match="download weights"):
        trusted_config(written(tmp_path, "model.network", node))


@pytest.mark.parametrize(
    "extra", [{"root": "x"}, {"download": True}, {"train": True}, {"_args_": ["x"]}, {"_partial_": False}]
)
def test_a_data_set_is_told_where_it_lies_by_nobody_else(tmp_path, extra):
    node = {"_target_": f"{OWN}.data.mnist.MNIST", "_partial_": True}
    trusted_config(written(tmp_path, "data.dataset", node))
    with pytest.raises(UserError, match="is refused"):
        trusted_config(written(tmp_path, "data.dataset", {**node, **extra}))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_streamed_data_set_of_the_owner_is_allowed_and_told_where_it_lies_by_nobody_else(tmp_path, part):
    node = {"_target_": f"{OWN}.data.mnist.MNIST", "_partial_": True, "train": True}
    trusted_config(written(tmp_path, f"data.{part}", node))
    others = ({"root": "x"}, {"download": True}, {"_args_": ["x"]}, {"_partial_": False}, {"_target_": "os.system"})
    for extra in (*others, {"_target_": "leyden.data.folder.Folder"}, {"transform": {"_target_": "os.system"}}):
        with pytest.raises(UserError, match="is refused"):
            trusted_config(written(tmp_path, f"data.{part}", {**node, **extra}))


def test_a_transform_of_a_data_set_is_allowed_by_name(tmp_path, monkeypatch):
    inner = {"_target_": "torchvision.transforms.v2.PILToTensor"}
    compose = {"_target_": "torchvision.transforms.v2.Compose", "transforms": [inner]}
    node = {"_target_": f"{OWN}.data.mnist.MNIST", "_partial_": True, "transform": compose}
    with pytest.raises(UserError, match=r"Compose is refused.*trust.yaml"):
        trusted_config(written(tmp_path, "data.train", node))
    names = tuple(each["_target_"] for each in (compose, inner))
    monkeypatch.setitem(
        roles.DATA.nested["train"].nested, "transform", allowed := replace(roles.TRANSFORMS, names=names)
    )
    allowed.nested[""] = allowed
    trusted_config(written(tmp_path, "data.train", node))
    with pytest.raises(UserError, match="is refused"):
        trusted_config(
            written(tmp_path, "data.train", {**node, "transform": {**compose, "more": {"_target_": "os.system"}}})
        )


def test_a_name_that_is_looked_up_imports_nothing_strange(tmp_path):
    for target in ("torch.utils.model_dump.__main__.x", "torch._inductor.compiler_bisector.x", "leyden.bench.x"):
        before = set(sys.modules)  # another test may have imported it
        with pytest.raises(UserError, match="is refused"):
            trusted_config(written(tmp_path, "model", {"_target_": target}))
        assert target.rpartition(".")[0] not in set(sys.modules) - before


def test_a_module_whose_name_begins_as_an_allowed_packages_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_others.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.setattr(leyden, "__path__", [*leyden.__path__, str(tmp_path)])
    with pytest.raises(UserError, match="is refused"):
        trusted_config(written(tmp_path, "task", {"_target_": "leyden.tasks_of_others.Task"}))
    assert not (tmp_path / "imported").exists()


def test_a_target_in_a_list_or_made_by_an_interpolation_is_refused(tmp_path):
    for node in ([{"_target_": "os.system"}], "${oc.create:'{_target_: os.system}'}", {"${oc.env:HOME}": 1}):
        with pytest.raises(UserError, match="is refused"):
            trusted_config(written(tmp_path, "model.x", node))


@pytest.mark.parametrize("place", ["callbacks.mine", "logger.mine", "optimizer", "scheduler", "trainer.profiler"])
def test_what_evaluating_never_makes_is_not_looked_at(tmp_path, place):
    """A callback of one's own does not make a finished run unusable; and nothing of it is taken over."""
    config = trusted_config(written(tmp_path, place, {"_target_": "my.own.Callback"}))
    assert "my.own" not in str(config)


@pytest.mark.slow(minutes=0.1)
def test_no_verb_makes_anything_of_a_refused_config(run, put_to_use, tmp_path):
    config = run.recorded
    for place in ("model.hidden_sizes", "data.dataset", "data.augment", "trainer.profiler", "trainer.plugins"):
        node = {"_target_": "builtins.open", "file": str(tmp_path / "executed"), "mode": "w"}
        poisoned = json.loads(json.dumps(config))
        part, key = place.split(".")
        poisoned[part][key] = node
        records.put(run.directory, config=poisoned)
        for verb in VERBS:
            code, text = put_to_use(verb, *([f"output={tmp_path / 'x.onnx'}"] if verb == "export" else []))
            assert code == 2 or place in ("data.augment", "trainer.profiler", "trainer.plugins"), text
            assert not (tmp_path / "executed").exists()


def written(tmp_path, place, node):
    config = {
        "name": "x",
        "model": {"_target_": f"{OWN}.models.mlp.MLP", "network": {}, "layers": [{}]},
        "data": {"_target_": "leyden.data.in_memory.InMemoryDataModule", "dataset": {}},
        "task": {"_target_": "leyden.tasks.classification.Classification", "loss": None, "metrics": {}},
        "trainer": {},
        "seed": 0,
        "callbacks": {},
        "logger": {},
    }
    *parents, last = place.split(".")
    inner = config
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    inner[last] = node
    records.put(tmp_path, config=config)
    return Run(tmp_path)


# What an audited call of Python may not do while something of the list is made.
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "urllib.", "pickle.")
FORBIDDEN += (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "shutil.",
    "ftplib.",
)
seen = []
hooked = listening = False


def audit(event, arguments):
    if listening and (event.startswith(FORBIDDEN) or (event == "open" and not is_code(arguments))):
        seen.append((event, str(arguments)[:100]))


def is_code(arguments):
    path, mode = str(arguments[0]), arguments[1]
    # Versions of what is installed are asked for once, by whatever is made first.
    of_code = (".py", ".pyc", ".so", ".dist-info/METADATA", f"python{sys.version_info[0]}{sys.version_info[1]}.zip")
    return mode in (None, "r", "rb") and path.endswith(of_code)


@pytest.fixture
def audited():
    global hooked
    if not hooked:  # one can't be taken out
        sys.addaudithook(audit)
        hooked = True
    L.LightningModule()  # the first one asks for the versions of what is installed
    yield seen
    seen.clear()


ROLES = {
    **{name: getattr(roles, name) for name in ("NETWORKS", "DATASETS", "DATA", "TASKS", "LOSSES", "METRICS")},
    **{name: getattr(roles, name) for name in ("OPTIMIZERS", "SCHEDULERS", "AUGMENT", "CALLBACK", "PARTS")},
    "AUGMENTATIONS": roles.AUGMENT.nested[""],
    "PRUNERS": roles.CALLBACK.nested["pruner"],
}


def reachable():
    """All that the list allows: every class below its packages, the names on it, and the builders."""
    for role in ROLES.values():
        for package in role.packages:
            root = importlib.import_module(package)
            below = pkgutil.walk_packages(getattr(root, "__path__", []), f"{package}.")
            for name in [package, *(module.name for module in below)]:
                module = importlib.import_module(name)
                for key, found in vars(module).items():
                    if inspect.isclass(found) and issubclass(found, role.base) and found.__module__ == name:
                        yield role, f"{name}.{key}", found
        for name in role.all_names:
            yield role, name, get_object(name)
    for builder in roles.NETWORK_BUILDERS:
        yield roles.NETWORKS, f"{builder.__module__}.{builder.__name__}", builder


REACHABLE = list(reachable())


def test_the_list_holds_what_it_should():
    names = {name for _, name, _ in REACHABLE}
    assert len(names) > 150
    assert {
        f"{OWN}.models.mlp.MLP",
        "torch.nn.modules.linear.Linear",
        "torchvision.models.resnet.resnet18",
    } <= names
    networks = [name for role, name, _ in REACHABLE if role is roles.NETWORKS]
    assert not any("Weights" in name or "detection" in name or "get_" in name for name in networks)


@pytest.mark.parametrize(
    "role",
    [
        *(each for each in ROLES if each != "NETWORKS"),
        pytest.param("NETWORKS", marks=pytest.mark.slow(minutes=0.1)),
    ],
)
def test_whatever_the_list_allows_loads_writes_and_fetches_nothing(tmp_path, audited, role):
    """Everything that can be made, of values that a stranger would choose."""
    bait = tmp_path / "bait"
    bait.mkdir()
    (bait / "x.pt").write_bytes(b"")
    values = [f"file://{bait}/x.pt", str(bait / "new"), True, 1, {"url": f"file://{bait}/x.pt"}, [1, 2]]
    for its_role, name, made in REACHABLE:
        if its_role is not ROLES[role]:
            continue
        kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        known = [
            parameter.name for parameter in inspect.signature(made).parameters.values() if parameter.kind in kinds
        ]
        for value in values if made not in roles.NETWORK_BUILDERS else values[:2]:
            given = {key: value for key in known if key not in DOWNLOAD_ARGUMENTS}
            if role == "DATASETS":  # as `fetch.load` calls it: root and download are not a stranger's to choose
                given = {**given, "root": str(bait), "train": True, "download": False}
            make(made, given)
            found = [each for each in audited if role != "DATASETS" or each[0] != "open"]
            assert not found, (name, value, found)
            assert [path.name for path in bait.iterdir()] == ["x.pt"], name


def make(made, given):
    global listening
    listening = True
    try:
        with torch.device("meta"), contextlib.suppress(Exception):  # that it is no good is not the question
            made(**given)
    finally:
        listening = False


def test_what_the_project_itself_writes_is_allowed(run):
    assert trusted_config(run).model.hidden_sizes == [16]


@pytest.fixture
def owner(tmp_path, monkeypatch):
    """Writes the trust.yaml of a package; gives its path."""
    package = tmp_path / "src" / OWN
    package.mkdir(parents=True)
    monkeypatch.setattr(roles, "SRC", tmp_path / "src")
    yield lambda content: (package / "trust.yaml").write_text(content)
    roles.allowed_by_owner.cache_clear()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: 5", "model: 5: must be a list of dotted names"),
        ("model: timm.models.resnet.ResNet", "must be a list of dotted names"),
        ("model: [5]", "must be a list of dotted names"),
        ("models: []", "models: no such role; the keys are model, dataset"),
        ("- model", "is not a mapping"),
        ("model: [", "can't be read"),
        ("\0", "can't be read"),
    ],
)
def test_a_wrong_list_of_the_owner_is_named_in_a_line(owner, tmp_path, content, message):
    owner(content)
    roles.allowed_by_owner.cache_clear()
    with pytest.raises(UserError) as caught:
        trusted_config(written(tmp_path, "model", {"_target_": f"{OWN}.models.mlp.MLP"}))
    assert message in str(caught.value)
    assert "trust.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_of_the_owner_that_is_not_found_allows_nothing_and_is_named(owner, tmp_path, capsys):
    owner("model: [no.such.DistributedDataParallel, torch.nn.modules.linear.Missing, antigravity.Net]\ndata:\n")
    roles.allowed_by_owner.cache_clear()
    _allowed.cache_clear()
    trusted_config(written(tmp_path, "model", {"_target_": f"{OWN}.models.mlp.MLP"}))
    with pytest.raises(UserError, match="it can't be found"):
        trusted_config(written(tmp_path, "model", {"_target_": "no.such.DistributedDataParallel"}))
    with pytest.raises(UserError, match="it is not on the list"):
        trusted_config(written(tmp_path, "model", {"_target_": "torch.nn.parallel.DistributedDataParallel"}))
    named = "trust.yaml: no.such.DistributedDataParallel can't be found (no module no); it allows nothing"
    assert named in capsys.readouterr().err
    assert "antigravity" not in sys.modules, "what another run needs is not imported"


@pytest.mark.parametrize("name", ["_global_forward_hooks", "_has_compile", "T", "__dict__", "__path__"])
def test_whatever_a_module_holds_is_refused_in_a_line(tmp_path, name):
    for place in ("model", "task.loss", "task.metrics.x"):
        with pytest.raises(UserError, match="is refused"):
            trusted_config(written(tmp_path, place, {"_target_": f"torch.nn.modules.module.{name}"}))


# A whole run: what is made anew has a role, too.


@pytest.mark.slow(minutes=0.1)
def test_each_recipe_and_choice_of_the_project_is_allowed():
    from leyden.config.hydra import composing

    recipes = [(f"experiment={path.stem}",) for path in conf("experiment")]
    for group in ("optimizer", "scheduler", "data/augment", "callbacks", "trainer"):
        recipes += [(f"{group}={path.stem}",) for path in conf(group)]
    for group in ("callbacks/averaging", "callbacks/pruning", "callbacks/stopping"):
        recipes += [(f"+{group}={path.stem}",) for path in conf(group)]
    assert len(recipes) > 30
    for overrides in recipes:
        with composing():
            config = OmegaConf.to_container(hydra.compose("train", overrides=[*overrides]), resolve=True)
        parts = {key: value for key, value in config.items() if key in roles.ROLES}
        assert problem_of_run(parts) == "", overrides


@pytest.mark.parametrize(
    ("place", "node"),
    [
        ("optimizer", {"_target_": "torch.load", "f": "x.pt", "weights_only": False}),
        ("optimizer", {"_target_": "torch.optim.SGD", "_partial_": False}),
        ("optimizer", {"_target_": "torch.optim.SGD", "_partial_": True, "params": {"_target_": "os.system"}}),
        ("scheduler", {"_target_": "torch.optim.SGD", "_partial_": True}),
        ("callbacks.mine", {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "/elsewhere"}),
        ("callbacks.mine", {"_target_": "leyden.sweep.pruning.Pruning", "pruner": {"_target_": "os.system"}}),
        ("callbacks", {"_target_": "leyden.pictures.classification.Errors"}),
        ("data.augment", {"_target_": "leyden.data.transforms.Augment", "x": {"_target_": "torch.nn.Linear"}}),
        ("data.augment", {"_target_": "leyden.loggers.mlflow.MLflow", "tracking_uri": "sqlite:///elsewhere"}),
        ("model.dropout", {"_target_": f"{OWN}.data.mnist.MNIST", "root": "/elsewhere", "download": True}),
        ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.AdvancedProfiler", "dirpath": "/elsewhere"}),
        ("trainer", {"_target_": "lightning.pytorch.Trainer", "default_root_dir": "/elsewhere"}),
        ("trainer", {"_target_": "lightning.pytorch.Trainer", "plugins": ["x"]}),
        ("sweep", {"x": {"_target_": "os.system"}}),
        ("freeze", ["${oc.env:HOME}"]),
    ],
)
def test_a_run_that_makes_something_else_is_refused(tmp_path, place, node):
    config = written(tmp_path, "name", "x").recorded
    config.pop("callbacks"), config.pop("logger")
    assert problem_of_run(config) == ""
    inner = config
    *parents, last = place.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = node
    assert " is refused: " in problem_of_run(config)


# What a run directory of somebody else makes of files outside.


@pytest.mark.parametrize(
    "name", ["config.yaml.tmp", "run.json.tmp", "metrics.csv", "val", "best/hparams.tfevents", ".lock"]
)
def test_a_link_in_a_run_directory_is_not_written_through(run, cli, tmp_path, name):
    (tmp_path / "mine").write_text("precious")
    path = run.directory / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rename(tmp_path / "before")
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "mine")
    code, _, err = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=2")
    assert code == 2
    assert f"{name}: is a link" in err
    assert (tmp_path / "mine").read_text() == "precious"


def test_checkpoints_elsewhere_are_not_written(run, cli, tmp_path):
    (run.directory / "checkpoints").rename(tmp_path / "elsewhere")
    (run.directory / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere" / "last.ckpt").read_bytes()
    code, _, err = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=2")
    assert code == 2
    assert "checkpoints: is a link" in err
    assert (tmp_path / "elsewhere" / "last.ckpt").read_bytes() == before


def test_an_export_replaces_a_link(run, put_to_use, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for name in ("model.onnx", ".model.onnx", "model.onnx.tmp"):
        (run.directory / name).symlink_to(tmp_path / "mine")
    code, text = put_to_use("export")
    assert code == 0, text
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (run.directory / "model.onnx").is_symlink()


def test_the_folder_for_data_is_not_chosen_by_a_stranger(run, put_to_use, tmp_path):
    config = run.recorded
    config["data"].update(root=str(tmp_path / "theirs"), download=True)
    config["outputs"] = str(tmp_path / "theirs")
    records.put(run.directory, config=config)
    for verb in ("evaluate", "export"):
        code, text = put_to_use(verb)
        assert code == 2
        assert "data_root=FOLDER sets the folder" in text
        assert not (tmp_path / "theirs").exists()
    code, text = put_to_use("evaluate", f"data_root={ROOT / 'data'}")
    assert code == 0, text


# What keeps a command waiting.


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": 1',
        b'{"config": {"name": "x", "a": ' + b"9" * 5000 + b'}, "starts": []}',
        b'{"config": {"name": "x", "a": ' + b"9" * 41 + b'}, "starts": []}',
        b'{"config": {"name": "x", "a": {"b": 1}}, "starts": []}',
        b'{"config": {"name": "x", "a": [[1]]}, "starts": []}',
        b'{"config": {"name": "x", "a": 1, "a.b": 2}, "starts": []}',
        b'{"config": {"name": "x", "[0].a": 2}, "starts": []}',
        b'{"config": {"name": "x", "' + b"a." * 5000 + b'a": 1}, "starts": []}',
        b'{"config": {"name": "a\\nb"}, "starts": []}',
        b'{"config": {"name": "x"}, "starts": [3]}',
        b'{"config": {"name": "x"}, "starts": [{"overrides": [1]}]}',
    ],
    ids=len,
)
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match="not a run directory"):
        trusted_config(Run(tmp_path))


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "checkpoints/best.ckpt"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_keeps_nobody_waiting(run, cli, tmp_path, name, kind):
    path = run.directory / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    code, _, err = cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=2")
    assert (code, len(err.strip().splitlines()) <= 2) == (2, True) or (kind, code) == ("folder", 0), err
    if name != "config.yaml":
        for verb in VERBS:
            inputs = (f"images={image(tmp_path)}",) if verb == "predict" else ()
            code, _, err = cli(verb, f"run={run.directory}", *inputs)
            assert code == 2, err
            assert len(err.strip().splitlines()) <= 2


def test_a_checkpoint_that_grows_is_refused(run, put_to_use):
    path = run.directory / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    code, text = put_to_use("predict")
    assert code == 2
    assert "claims to hold more bytes than it has" in text


@pytest.mark.parametrize("kind", ["pipe", "device", "bomb"])
def test_an_image_that_is_none(run, cli, tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        Image.new("1", (12_000, 12_000)).save(path)
    code, _, err = cli("predict", f"run={run.directory}", f"images={path}")
    assert code == 2
    assert "not a PNG, JPEG or WebP image that can be read" in err


def laughs():
    """A list of a thousand million numbers, which takes no memory until somebody looks at them all."""
    numbers = [1.0] * 10
    for _ in range(8):
        numbers = [numbers] * 10
    return numbers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", laughs),
        ("mean", ["x"]),
        ("class_names", ["a"]),
        ("num_classes", "x"),
        ("input_shape", [10**6, 10**6, 10**6]),
        ("input_shape", [1, -28]),
    ],
)
def test_facts_that_are_none_are_refused(run, put_to_use, key, value):
    best = run.directory / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"][key] = value() if callable(value) else value
    torch.save(content, best)
    code, text = put_to_use("predict")
    assert code == 2
    assert "best.ckpt: has no facts of the data" in text


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2]])
def test_a_file_of_tensors_that_is_no_checkpoint_is_named(run, put_to_use, content):
    torch.save(content, run.directory / "checkpoints" / "best.ckpt")
    code, text = put_to_use("predict")
    assert code == 2
    assert "best.ckpt: not the checkpoint of a run" in text


# What reaches the terminal, and what is written down.

ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"


def test_nothing_in_a_run_directory_steers_the_terminal(run, cli, put_to_use, tmp_path):
    result = json.loads((run.directory / "run.json").read_text())
    error = {"type": ESCAPE, "message": ESCAPE}
    result.update(status=f"finished{ESCAPE}", error=error, metrics={f"val/{ESCAPE}": 1.0, "val/acc": 0.5})
    starts = run.starts
    starts[0]["overrides"] = [f"model.{ESCAPE}=1", f"seed={ESCAPE}"]
    records.put(run.directory, config={**run.recorded, "name": ESCAPE}, starts=starts, result=result)
    best = run.directory / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    content["facts"]["class_names"] = [f"{n}{ESCAPE}" for n in range(10)]
    torch.save(content, best)
    printed = [
        put_to_use("predict"),
        put_to_use("evaluate"),
        cli("train", f"run_dir={run.directory}", *QUICK, "trainer.max_epochs=1")[1:],
        cli("train", f"run_dir={tmp_path / 'x'}", f"name='{ESCAPE}'")[1:],
    ]
    for text in ["".join(map(str, texts)) for texts in printed]:
        assert not {"\x1b", "\x07", "\u202e"} & set(text), ascii(text)


def test_summarize_steers_nothing(run, tmp_path):
    starts = run.starts
    starts[0]["overrides"] = [f"model.{ESCAPE}=1"]
    records.put(run.directory, starts=starts)
    text = finish(start(str(tmp_path), script=("-m", "leyden.summarize")))
    assert not {"\x1b", "\x07", "\u202e"} & set(text), ascii(text)


def test_no_secret_of_the_environment_is_written_down(tmp_path, mnist_root):
    secret = secrets.token_hex()  # not one that stands here: the run keeps changes of the code
    arguments = (f"run_dir={tmp_path / 'run'}", f"outputs={tmp_path}", *QUICK, "trainer.max_epochs=1")
    finish(
        start(
            *arguments,
            WANDB_API_KEY=secret,
            AWS_SECRET_ACCESS_KEY=secret,
            GIT_CONFIG_COUNT="1",
            GIT_CONFIG_KEY_0="remote.origin.url",
            GIT_CONFIG_VALUE_0=f"https://me:{secret}@example.org/x.git",
        )
    )
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_the_data_sets_on_the_list_are_data_sets():
    assert all(issubclass(found, role.base) for role, _, found in REACHABLE if role is not roles.NETWORKS)
    assert issubclass(roles.DATA.base, L.LightningDataModule)
    assert np.all([builder.__module__.startswith("torchvision.models.") for builder in roles.NETWORK_BUILDERS])


@pytest.mark.parametrize(
    ("listed", "target", "package"),
    [("", "b.nets.Net", "b"), ("", "elsewhere.Net", "a"), ("c", "elsewhere.Net", "c"), ("c", "b.nets.Net", "b")],
)
def test_the_advice_names_the_list_of_the_classs_own_package_or_one_that_is_there(
    tmp_path, monkeypatch, listed, target, package
):
    if listed:
        (tmp_path / listed).mkdir()
        (tmp_path / listed / "trust.yaml").touch()
    for name in ("SRC", "ROOT"):
        monkeypatch.setattr(trust, name, tmp_path)
    monkeypatch.setattr(trust, "own_packages", lambda: ["a", "b", "c"])
    advice = trust._advice(trust.Problem("", target, "task"))
    assert advice == f"; if you trust it, list it in {package}/trust.yaml: `task: [{target}]`"
