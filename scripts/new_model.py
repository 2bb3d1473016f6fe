"""Write the file and the YAML of a new architecture.

make new-model NAME=capsule    # then: python -m leyden.train model=capsule
"""

import keyword
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NETWORK = '''"""{title}: say here what it is, and its source."""

from torch import Tensor, nn


class {name}(nn.Module):
    """{title}: say here what it does.

    Args:
        input_shape: Shape of one image, (C, H, W): the data's, not in the YAML.
        num_classes: Number of logits: the data's, too.
        hidden_size: Units of the hidden layer. All that is your choice stands in conf/model/{module}.yaml.
    """

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int, hidden_size: int) -> None:
        super().__init__()
        num_channels, height, width = input_shape
        # A network that is not for all shapes says so: raise ValueError(f"images of {{input_shape}}: ...").
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_channels * height * width, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, num_classes), of images, shape (N, C, H, W)."""
        logits_NK: Tensor = self.layers(images_NCHW)
        return logits_NK
'''

CONFIG = """# {title}: python -m leyden.train model={module}
_target_: leyden.models.{module}.{name}
hidden_size: 128
"""


def main(module: str) -> None:
    """Write both files; exits with an error if the name is none or one of them is there."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", module) or keyword.iskeyword(module):
        sys.exit(
            f"NAME={module}: must be a name for a Python module: a-z, 0-9 and _, as make new-model NAME=capsule"
        )
    words = module.strip("_").split("_")
    names = {"module": module, "name": "".join(map(str.capitalize, words)), "title": " ".join(words).capitalize()}
    files = {ROOT / f"src/leyden/models/{module}.py": NETWORK, ROOT / f"conf/model/{module}.yaml": CONFIG}
    for path in files:
        if path.exists():
            sys.exit(f"NAME={module}: {path.relative_to(ROOT)} is there already; choose another name")
    for path, text in files.items():
        path.write_text(text.format(**names))
        print(path.relative_to(ROOT))
    print(f"python -m leyden.train model={module}\nmake test ARGS='tests/models -k {module}'")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
