"""Text datasets: windows of tokens, and the next token at each position.

Shapes: N windows, T tokens per window.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from leyden.data.transforms import check_integers, number_by_name
from leyden.files import decode_text, digest_of, read_file

UNKNOWN = "\ufffd"  # stands for characters that are not in the training part
Unit = Literal["characters", "bytes"]
BYTES = tuple(map(chr, range(256)))  # each byte as the character with this code point


class Text(Dataset[None]):
    """Windows of a text: `data`, (N, T) int64, and `targets`, shifted by one token.

    Views of one tensor of tokens.

    The last part of the text is the test set. Windows can overlap; `overlap` is the number of
    neighbours that share tokens.

    Args:
        root: Folder of the file.
        train: Whether to read the training part.
        download: Ignored; a user's own file is never downloaded.
        file: File name in `root`, in UTF-8.
        unit: Unit of a token: `characters` or `bytes`.
        context: T, the length of a window.
        stride: Tokens from the start of one window to the start of the next.
        test_size: Fraction of the text that is the test set, in (0, 1).

    Raises:
        OSError: There is no such file.
        ValueError: An argument is out of its range, or the text is too short or in another
            encoding.
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
        check_integers(context=(context, 1), stride=(stride, 1))
        if unit not in get_args(Unit):
            raise ValueError(f"unit={unit}: must be one of {', '.join(get_args(Unit))}")
        content = self.read(Path(root), file)
        self.digests = {file: digest_of(content)}
        if unit == "bytes":
            text = content.decode("latin-1")
        else:
            text = decode_text(Path(root, file), content)
        num_test = round(test_size * len(text))
        end = len(text) - num_test
        training = text[:end]
        if unit == "bytes":
            self.vocabulary = [*BYTES]
        else:
            self.vocabulary = sorted({*training, UNKNOWN})
        tokens = encode_text(training if train else text[end:], self.vocabulary)
        if len(tokens) <= context:
            raise ValueError(
                f"{file}: {len(tokens)} tokens are too few for windows of context={context}"
            )
        windows_NT = tokens.unfold(0, context + 1, stride)
        self.data = windows_NT[:, :-1]
        self.targets = windows_NT[:, 1:]
        self.overlap = context // stride  # including the next token

    def read(self, root: Path, file: str) -> bytes:
        """Return the content of the file.

        Raises:
            OSError: There is no such file.
        """
        return read_file(root / file)


def encode_text(text: str, vocabulary: Sequence[str]) -> Tensor:
    """Return the tokens of a text, shape (L,), int64.

    Characters missing from the vocabulary become `UNKNOWN`.

    Raises:
        ValueError: A character is missing, and the vocabulary does not contain `UNKNOWN`.
    """
    numbers = number_by_name(vocabulary)
    strange = numbers.get(UNKNOWN)
    tokens = [numbers.get(character, strange) for character in text]
    if None in tokens:
        raise ValueError(f"{text[tokens.index(None)]!r}: is not in the vocabulary")
    return torch.tensor(tokens, dtype=torch.int64)


def text_of_tokens(tokens_T: Tensor, vocabulary: tuple[str, ...]) -> str:
    """Return the text of tokens, shape (T,)."""
    parts = [vocabulary[token] for token in tokens_T.tolist()]
    text = "".join(parts)
    if vocabulary != BYTES:
        return text
    return text.encode("latin-1").decode(errors="replace")
