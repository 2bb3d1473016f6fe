"""Windows of a text: their tokens, those of each part, and what is refused."""

import functools

import pytest
import torch

from leyden.data.text import BYTES, UNKNOWN, Text, encode_text, text_of
from tests.data import small

GIVEN = {"file": "t.txt", "unit": "characters", "context": 4, "stride": 4, "test_size": 0.25}


def text(root, train=True, **changed):
    return Text(str(root), train=train, **{**GIVEN, **changed})


@pytest.fixture
def root(tmp_path):
    (tmp_path / "t.txt").write_text("abcdefgh" * 4 + "ä" * 10 + "z")
    return tmp_path


@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_windows_and_the_token_that_follows_each(root, stride):
    made = text(root, stride=stride)
    words = [[made.vocabulary[token] for token in row] for row in made.data.tolist()]
    following = [[made.vocabulary[token] for token in row] for row in made.targets.tolist()]
    whole = "abcdefgh" * 4
    for n, (row, then) in enumerate(zip(words, following, strict=True)):
        assert "".join(row) == whole[n * stride : n * stride + 4]
        assert "".join(then) == whole[n * stride + 1 : n * stride + 5]
    shares = [k for k in range(1, len(words)) if k * stride <= 4]  # with the token that follows
    assert made.overlap == len(shares)
    assert made.data.untyped_storage().data_ptr() == made.targets.untyped_storage().data_ptr()


def test_the_last_part_is_the_test_set_and_what_it_alone_has_is_unknown(root):
    made = text(root, train=False)
    assert {made.vocabulary[token] for token in made.data.flatten().tolist()} == {UNKNOWN}
    assert "ä" not in made.vocabulary
    with pytest.raises(ValueError, match="'y': is not in the vocabulary"):
        encode_text("y", ["x"])


def test_a_text_is_in_utf_8_or_bytes(root):
    made = text(root, unit="bytes")
    assert (len(made.vocabulary), made.data[0].tolist()) == (256, list(b"abcd"))
    (root / "t.txt").write_bytes(("abcdefgh\n" * 4 + "ä").encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.txt, line 5: byte 0xe4 is not UTF-8"):
        text(root)
    assert text(root, unit="bytes", train=False).data[-1].tolist()
    assert text_of(torch.tensor([*"é€".encode()]), BYTES) == "é€"
    assert text_of(torch.tensor([0, 1]), ("a", "b")) == "ab"


def test_what_is_wrong_is_named(root):
    for changed, message in (
        ({"context": 0}, "context=0: must be"),
        ({"stride": 1.5}, "stride=1.5: must be"),
        ({"unit": "words"}, "unit=words: must be one of characters, bytes"),
        ({"context": 40}, "tokens are too few for windows of context=40"),
        ({"file": "none.txt"}, r"none.txt: can't be read \(No such file or directory\)"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            text(root, **changed)


@pytest.mark.parametrize("stride", [1, 4, 5])
def test_no_window_of_training_has_a_token_of_validation(root, stride):
    (root / "t.txt").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 400))))  # each one once
    made = functools.partial(Text, **{**GIVEN, "stride": stride})
    data = small.in_memory(made, root=str(root), val_size=10)
    data.setup("fit")
    held = data.held[True]
    train, val = (torch.cat([held.inputs[rows], held.targets[rows]]) for _, rows in sorted(data.indices.items()))
    assert not torch.isin(train, val).any()
    assert torch.equal(data.indices["val"], torch.arange(len(held.inputs) - 10, len(held.inputs)))
