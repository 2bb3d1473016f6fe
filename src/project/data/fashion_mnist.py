"""Fashion-MNIST, from Debian's package if it is installed, else downloaded."""

from pathlib import Path
from typing import Any

import torchvision
from torchvision.datasets.utils import extract_archive

from project.data.files import check_files

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # apt install dataset-fashion-mnist


class FashionMNIST(torchvision.datasets.FashionMNIST):
    """Images of clothing: `data`, (60000 or 10000, 28, 28) uint8, and `targets`, (N,) int64.

    Source: Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine
    learning algorithms (2017).
    """

    sha256 = {  # noqa: RUF012 - SHA-256 of the unpacked files; other files are refused
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }

    def __init__(self, root: str, **kwargs: Any) -> None:
        folder = Path(root, "FashionMNIST", "raw")
        self.digests = check_files(folder, self.sha256)
        super().__init__(root, **kwargs)

    def download(self) -> None:
        """Unpack the files of Debian's package if it is installed, else download them."""
        if self._check_exists():
            return
        # Debian compressed the files anew, so torchvision's checksums of compressed files don't
        # match.
        archives = [DEBIAN / name for name, _ in self.resources]
        if all(archive.is_file() for archive in archives):
            Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
            for archive in archives:
                extract_archive(str(archive), self.raw_folder)
        else:
            super().download()
