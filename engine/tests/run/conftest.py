import shutil

import pytest
from PIL import Image

from tests.conftest import QUICK, here


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mnist_root):
    """The directory of a finished run of one epoch."""
    place = tmp_path_factory.mktemp("trained")
    assert (
        here(
            "train", f"run_dir={place / 'run'}", f"outputs={place}", *QUICK, "trainer.max_epochs=1"
        )
        == 0
    )
    return place / "run"


@pytest.fixture
def own(trained, tmp_path):
    """A copy of it, to be damaged."""
    Image.new("L", (28, 28)).save(tmp_path / "x.png")
    return shutil.copytree(trained, tmp_path / "run")


def use(verb, run, *more):
    """What is typed to put a run to use."""
    typed = {
        "train": (f"run_dir={run}", *QUICK, "trainer.max_epochs=1"),
        "note": ("note=x",),
        "predict": (f"images={run.parent / 'x.png'}",),
        "export": (f"output={run.parent / 'x.onnx'}",),
    }
    return verb, *([] if verb == "train" else [f"run={run}"]), *typed.get(verb, ()), *more
