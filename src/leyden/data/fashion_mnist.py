"""Fashion-MNIST, had from Debian's package where that is installed."""

from pathlib import Path

import torchvision
from torchvision.datasets.utils import extract_archive

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # apt install dataset-fashion-mnist


class FashionMNIST(torchvision.datasets.FashionMNIST):
    """Articles of clothing: `data`, (60000 or 10000, 28, 28) uint8, and `targets`, int64.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms (2017).
    """

    def download(self) -> None:
        """Take the files of Debian's package, where it is installed, else fetch them."""
        # Debian has compressed them anew: torchvision's checksums, of compressed files, do not hold for them.
        if all((DEBIAN / name).is_file() for name, _ in self.resources):
            Path(self.raw_folder).mkdir(parents=True)
            for name, _ in self.resources:
                extract_archive(str(DEBIAN / name), self.raw_folder)
        else:
            super().download()
