import functools

import pytest
import torch

from leyden.data.text import BYTES, UNKNOWN, Text, encode_text, text_of_tokens
from tests.data import small

GIVEN = {"file": "t.txt", "unit": "characters", "context": 4, "stride": 4, "test_size": 0.25}


def text(root, train=True, **changed):
    return Text(str(root), train=train, **GIVEN | changed)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "t.txt").write_text("abcdefgh" * 4 + "ä" * 10 + "z")
    return tmp_path


@pytest.mark.parametrize(("stride", "overlap"), [(1, 4), (3, 1), (4, 1), (7, 0)])
def test_windows_and_the_token_that_follows_each(root, stride, overlap):
    made = text(root, stride=stride)
    whole = "abcdefgh" * 4
    for n, (row, then) in enumerate(zip(made.data, made.targets, strict=True)):
        start = n * stride
        assert text_of_tokens(row, made.vocabulary) == whole[start : start + 4]
        assert text_of_tokens(then, made.vocabulary) == whole[start + 1 : start + 5]
    assert made.overlap == overlap  # with the token that follows
    assert made.data.untyped_storage().data_ptr() == made.targets.untyped_storage().data_ptr()


def test_the_last_part_is_the_test_set_and_what_it_alone_has_is_unknown(root):
    made = text(root, train=False)
    assert {*text_of_tokens(made.data.flatten(), made.vocabulary)} == {UNKNOWN}
    assert "ä" not in made.vocabulary
    with pytest.raises(ValueError, match="'y': is not in the vocabulary"):
        encode_text("y", ["x"])


def test_a_text_is_in_utf_8_or_bytes_and_what_is_wrong_is_named(root):
    made = text(root, unit="bytes")
    assert len(made.vocabulary) == 256
    assert bytes(made.data[0]) == b"abcd"
    (root / "latin.txt").write_text("abcdefgh\n" * 4 + "ä", encoding="latin-1")
    for changed, message in (
        ({"context": 0}, "context=0: must be"),
        ({"stride": 1.5}, "stride=1.5: must be"),
        ({"unit": "words"}, "unit=words: must be one of characters, bytes"),
        ({"context": 40}, "tokens are too few for windows of context=40"),
        ({"file": "none.txt"}, r"none.txt: can't be read \(No such file or directory\)"),
        ({"file": "latin.txt"}, r"latin\.txt, line 5: byte 0xe4 is not UTF-8"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            text(root, **changed)
    assert text(root, unit="bytes", train=False, file="latin.txt").data[-1].tolist()
    assert text_of_tokens(torch.tensor([*"é€".encode()]), BYTES) == "é€"
    assert text_of_tokens(torch.tensor([0, 1]), ("a", "b")) == "ab"


def test_no_window_of_training_has_a_token_of_validation(root):
    letters = map(chr, range(0x4E00, 0x4E00 + 400))
    (root / "t.txt").write_text("".join(letters))  # each one once
    for stride in (1, 4, 5):
        made = functools.partial(Text, **GIVEN | {"stride": stride})
        data = small.in_memory(made, root=str(root), val_size=10)
        data.setup("fit")
        held = data.held[True]
        num = len(held.inputs)
        tokens = torch.cat([held.inputs, held.targets], dim=1)
        train = data.indices["train"]
        val = data.indices["val"]
        assert not torch.isin(tokens[train], tokens[val]).any()
        assert val.tolist() == [*range(num - 10, num)]
