"""Texts: windows of tokens, and the token that follows each. Shapes: N windows, T tokens of each."""

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from leyden.data.files import decode_text, digest_of, read_file

UNKNOWN = "\ufffd"  # what the training part does not have
Unit = Literal["characters", "bytes"]
BYTES = tuple(map(chr, range(256)))  # each written as the character of its number


class Text(Dataset[None]):
    """Windows of a text: `data`, (N, T) int64, and `targets`, the same one token later; views of one tensor of tokens.

    The last part of the text is the test set. Windows can overlap; `overlap` tells how many neighbours share something.

    Args:
        root: Folder of the file.
        train: Whether it is the training part.
        download: Not used: a file of one's own is there.
        file: Name in that folder; characters are UTF-8, or what a mark at its beginning names.
        unit: What a token is: one of the `characters`, or of the `bytes`.
        context: T.
        stride: Tokens from the start of one window to that of the next.
        test_size: Part of the text that is the test set, in (0, 1).

    Raises:
        OSError: There is no such file.
        ValueError: An argument is out of its range, the text is too short, or it is in another encoding.
    """

    def __init__(
        self,
        root: str,
        *,
        train: bool,
        download: bool = False,
        file: str,
        unit: Unit,
        context: int,
        stride: int,
        test_size: float,
    ) -> None:
        for name, size in (("context", context), ("stride", stride)):
            if type(size) is not int or size < 1:
                raise ValueError(f"{name}={size}: must be a positive whole number")
        if unit not in get_args(Unit):
            raise ValueError(f"unit={unit}: must be one of {', '.join(get_args(Unit))}")
        if not isinstance(test_size, float) or not 0 < test_size < 1:
            raise ValueError(f"test_size={test_size}: must be a part in (0, 1)")
        content = self.read(Path(root), file)
        text = content.decode("latin-1") if unit == "bytes" else decode_text(Path(root, file), content)
        self.digests = {file: digest_of(content)}
        end = len(text) - round(test_size * len(text))
        self.vocabulary = [*BYTES] if unit == "bytes" else sorted({*text[:end], UNKNOWN})
        tokens = encode_text(text[:end] if train else text[end:], self.vocabulary)
        if len(tokens) <= context:
            raise ValueError(f"{file}: {len(tokens)} tokens are too few for windows of context={context}")
        windows_NT = tokens.unfold(0, context + 1, stride)
        self.data, self.targets = windows_NT[:, :-1], windows_NT[:, 1:]
        self.overlap = context // stride  # with the token that follows

    def read(self, root: Path, file: str) -> bytes:
        """Return the content of the file.

        Raises:
            OSError: There is no such file.
            ValueError: It lies elsewhere.
        """
        return read_file(root, file)


def encode_text(text: str, vocabulary: list[str] | tuple[str, ...]) -> Tensor:
    """The tokens of a text, shape (L,), int64; what the vocabulary does not have is `UNKNOWN`.

    Raises:
        ValueError: It has something unknown, and the vocabulary no word for that.
    """
    numbers = {word: number for number, word in enumerate(vocabulary)}
    strange = numbers.get(UNKNOWN)
    tokens = [numbers.get(character, strange) for character in text]
    if None in tokens:
        raise ValueError(f"{text[tokens.index(None)]!r}: is not in the vocabulary")
    return torch.tensor(tokens, dtype=torch.int64)


def tokens_of(text: str, vocabulary: tuple[str, ...]) -> Tensor:
    """The tokens of a text, shape (L,), int64; where the vocabulary is one of bytes, those of UTF-8.

    Raises:
        ValueError: As above.
    """
    return encode_text(text.encode().decode("latin-1") if vocabulary == BYTES else text, vocabulary)


def text_of(tokens_T: Tensor, vocabulary: tuple[str, ...]) -> str:
    """The text of tokens, shape (T,)."""
    text = "".join(vocabulary[token] for token in tokens_T.tolist())
    return text.encode("latin-1").decode(errors="replace") if vocabulary == BYTES else text
