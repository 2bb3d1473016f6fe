import pytest

from tests.conftest import QUICK, here


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mnist_root):
    """The directory of a finished run of one epoch."""
    place = tmp_path_factory.mktemp("trained")
    assert here("train", f"run_dir={place / 'run'}", f"outputs={place}", *QUICK, "trainer.max_epochs=1") == 0
    return place / "run"
