"""Files that come from somebody else are refused before anything in them is executed."""

import pytest
import torch
import yaml

from leyden.run import Run
from leyden.stored import stored_config
from tests.conftest import SMALL
from tests.test_train import train  # noqa: F401 - a fixture


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def run(train):  # noqa: F811
    return train("run", "trainer.max_epochs=1")[0]


def poison(checkpoint, path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "payload": Payload(path)}, checkpoint)


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_a_checkpoint_with_a_pickle_payload_is_refused(run, cli, tmp_path, verb):
    for name in ("best", "last"):
        poison(run.directory / "checkpoints" / f"{name}.ckpt", tmp_path / "executed")
    (run.directory / "result.json").unlink()
    arguments = {
        "train": (f"run_dir={run.directory}", *SMALL, "trainer.max_epochs=1"),
        "evaluate": (f"run={run.directory}",),
        "predict": (f"run={run.directory}", f"images={image(tmp_path)}"),
    }[verb]
    code, _, err = cli(verb, *arguments)
    assert code == 2
    assert "best.ckpt is refused" in err or "last.ckpt is refused" in err
    assert not (tmp_path / "executed").exists()


def image(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(path)
    return path


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.run",
        "torch.hub.load",
        "torch.load",
        "torch.nn.modules.module.torch.hub.load",  # by way of a module that has imported torch
        "leyden.run.os.system",
        "leyden.models.mlp.math.sqrt",
        "leyden.provenance._git",
        "leyden.data.mnist._from_package_index",
        "torchvision.datasets.utils.download_url",
        "lightning.pytorch.callbacks.nothing",
        "leyden.train.main",
        "",
        "${oc.env:HOME}",
    ],
)
@pytest.mark.parametrize("key", ["model", "data.dataset", "callbacks.checkpoint"])
def test_a_config_that_names_another_target_is_refused(tmp_path, target, key):
    run = written(tmp_path, key, {"_target_": target, "command": f"touch {tmp_path / 'executed'}"})
    with pytest.raises(Exception, match=r"_target_=.* is refused"):
        stored_config(run)
    assert not (tmp_path / "executed").exists()


def written(tmp_path, key, node):
    config = {"data": {"dataset": {}}, "callbacks": {}}
    *parents, last = key.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = node
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return Run(tmp_path)


def test_a_target_in_a_list_or_made_by_an_interpolation_is_refused(tmp_path):
    for node in ([{"_target_": "os.system"}], "${oc.create:'{_target_: os.system}'}"):
        with pytest.raises(Exception, match="is refused"):
            stored_config(written(tmp_path, "model", node))


@pytest.mark.parametrize("tag", ["!!pairs", "!!omap"])
def test_types_that_hide_something_are_refused(tmp_path, tag):
    node = f"model: {{hidden_sizes: {tag} [x: {{_target_: os.system}}]}}\n"
    (tmp_path / "config.yaml").write_text(node)
    with pytest.raises(Exception, match="not a run directory"):
        stored_config(Run(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: &a [*a]", b"a: [", b"!!python/object/apply:os.system [ls]"])
def test_what_is_no_plain_yaml_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(Exception, match="not a run directory"):
        stored_config(Run(tmp_path))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2]])
def test_a_file_of_tensors_that_is_no_checkpoint_is_named(run, cli, tmp_path, content):
    torch.save(content, run.directory / "checkpoints" / "best.ckpt")
    code, _, err = cli("predict", f"run={run.directory}", f"images={image(tmp_path)}")
    assert code == 2
    assert "best.ckpt: not the checkpoint of a run" in err


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_the_commands_refuse_it(run, cli, tmp_path, verb):
    path = run.directory / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'executed'}"}
    path.write_text(yaml.safe_dump(config))
    images = (f"images={image(tmp_path)}",) if verb == "predict" else ()
    code, _, err = cli(verb, f"run={run.directory}", *images)
    assert code == 2
    assert "os.system is refused" in err
    assert not (tmp_path / "executed").exists()


def test_what_the_project_itself_writes_is_allowed(run):
    assert stored_config(run).model.hidden_sizes == [16]
