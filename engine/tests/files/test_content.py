"""Files that users bring are identified by their contents."""

import os

import pytest

from leyden.data import contract
from leyden.files import fetch
from leyden.files.fetch import digest_of_folder
from tests.data import own


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_is_identified_by_names_and_sizes_and_a_small_one_by_contents(tmp_path, monkeypatch, large):
    monkeypatch.setattr(fetch, "MAX_FILES", 1 if large else 1000)
    for name in "ab":
        (tmp_path / name).write_bytes(b"1")
    same = digest_of_folder(tmp_path, [b"a", b"b"])
    os.utime(tmp_path / "a", (0, 0))
    assert digest_of_folder(tmp_path, [b"a", b"b"]) == same
    assert same.endswith("(names and sizes)") == large
    (tmp_path / "a").write_bytes(b"2")
    assert (digest_of_folder(tmp_path, [b"a", b"b"]) == same) == large
    (tmp_path / "a").write_bytes(b"11")
    assert digest_of_folder(tmp_path, [b"a", b"b"]) != same
    with pytest.raises(ValueError, match=r"c: can't be read \(No such file"):
        digest_of_folder(tmp_path, [b"a", b"c"])


def test_of_data_that_do_not_say_nothing_is_recorded():
    data = own.Plain()
    assert contract.digests_of(data) == {}
    for found, expected in (
        ({"a": "1"}, {"a": "1"}),
        (["a"], {}),
        ({"a": 1}, {}),
    ):
        data.digests = found
        assert contract.digests_of(data) == expected


def test_many_digests_are_one():
    data = own.Plain()
    data.digests = {str(n): "x" for n in range(21)}
    (first,) = contract.digests_of(data).items()
    assert first[0] == "all 21 files"
    data.digests |= {"0": "y"}
    (second,) = contract.digests_of(data).items()
    assert first != second
