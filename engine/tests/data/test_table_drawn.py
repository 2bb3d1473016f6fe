"""Tables in any encoding, with any separator, cut, and under a wrong name are read right, or refused in a line."""

import csv
import io
import re

import numpy as np
import torch

from leyden.data.table import Table

GOOD = "1 -2.5 +3 .5 5. 1e3 2E-1 007 0.1 123456789 -0 9007199254740993"
ODD = "1_0 ٣ １ nan inf 1e39 1e400 1e 1,5 1.234,5 0x10 True é"
LABELS = "1 01 001 10 9 a B é € 1_0 ٣ 12345678901234567890 12345678901234567891 1.0 1e0 nan True a,b a;b"
GOOD, ODD = [*GOOD.split(), " 3", " 4 "], [*ODD.split(), "x\x00", "", " ", "1 000"]
LABELS = [*LABELS.split(), 'say "x"', "two\nlines", " 1", ""]
NUMBER = re.compile(r" ?[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? ?")


def as_csv(rng, x, y):
    """The bytes of a CSV, and whether it is one that must be read."""
    separator = rng.choice([",", ",", ",", ",", ";", "\t", "|"])
    quoting, end = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), rng.choice(["\n", "\r\n"])
    writer = csv.writer(file := io.StringIO(newline=""), delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows([["x", "y"], *zip(x, y, strict=True)])
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"])
    text = file.getvalue()
    try:
        content = text.encode(encoding)
    except UnicodeEncodeError:  # Latin-1 has no such letter
        content, encoding = text.encode(), "utf-8"
    is_utf_8 = content == text.encode()
    return content, separator == "," and (is_utf_8 or encoding == "utf-8-sig")


def read(root, file, *, classes):
    """The numbers and targets of a table's rows, as they lie in it."""
    given = {"test_file": None, "test_size": 0.4, "inputs": ["x"], "targets": "y", "classes": classes}
    made = [Table(str(root), train=train, file=file, **given) for train in (True, False)]
    order = np.random.default_rng(0).permutation(sum(len(each.data) for each in made))
    num = len(made[1].data)
    rows = np.argsort(np.concatenate([np.sort(order[num:]), np.sort(order[:num])]))
    x = torch.cat([each.data[:, 0] for each in made])[rows].tolist()
    y = torch.cat([each.targets for each in made])[rows].tolist()
    return x, [made[0].classes[k] for k in y] if classes else y


def number(cell):
    """A cell as a number, by another reader than the one that is tested; None for none."""
    if not NUMBER.fullmatch(cell):
        return None
    with np.errstate(over="ignore"):
        found = np.float32(np.float64(cell))
    return float(found) if np.isfinite(found) else None


class Drawn:
    """A table at random: its file's `content` and `suffix`, what must be read of it, and whether it must."""

    def __init__(self, rng):
        num, self.classes = rng.randint(2, 6), rng.random() < 0.6
        cells = GOOD if rng.random() < 0.7 else GOOD + ODD
        x = [rng.choice(cells) for _ in range(num)]
        y = [rng.choice(LABELS if self.classes else cells) for _ in range(num)]
        self.content, is_table = as_csv(rng, x, y)
        self.expected = [*map(number, x)], [cell or None for cell in y] if self.classes else [*map(number, y)]
        self.suffix = ".txt" if rng.random() < 0.1 else ".csv"
        size = len(self.content)
        if rng.random() < 0.3:
            self.content = self.content[: rng.randrange(size + 1)]
        self.is_cut = len(self.content) < size
        holds_all = all(None not in column for column in self.expected)
        self.must_be_read = is_table and holds_all and self.suffix == ".csv" and not self.is_cut
        self.described = f"{self.suffix} {self.content[:80]!r} x={x} y={y} classes={self.classes}"

    def fault(self, root):
        """What is wrong with how it is read or refused; empty for nothing."""
        file = f"t{self.suffix}"
        (root / file).write_bytes(self.content)
        try:
            found = read(root, file, classes=self.classes)
        except (ValueError, OSError) as error:
            is_line = file in str(error) and "\n" not in str(error)
            return "" if is_line and not self.must_be_read else f"refused by {error}"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        # Of a file that was cut the rows before the last one are right.
        kept = len(found[0]) - 1 if self.is_cut else len(self.expected[0])
        is_right = all(each[:kept] == there[:kept] for each, there in zip(found, self.expected, strict=True))
        return "" if is_right else f"read as {found}, not {self.expected}"


def test_a_table_is_read_right_or_refused_in_a_line_that_names_it(tmp_path, drawn):
    for _ in range(300):
        table = Drawn(drawn)
        assert table.fault(tmp_path) == "", table.described
