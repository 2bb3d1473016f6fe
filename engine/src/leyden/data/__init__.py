"""Data in memory, folders of images, tables, texts, and any `Dataset`.

A YAML in `conf/data/` names one of these, and a class of one's own derives from it:

    from leyden.data import Table

    class Diamonds(Table):
        ...
"""

from typing import TYPE_CHECKING

from leyden.base.doors import lazily

if TYPE_CHECKING:
    from leyden.data.contract import Facts, ModuleData
    from leyden.data.folder import Folder, FolderDataModule, open_image
    from leyden.data.in_memory import InMemoryDataModule
    from leyden.data.streamed import DatasetDataModule
    from leyden.data.table import Table
    from leyden.data.text import Text
    from leyden.data.transforms import Augment, check_integers
    from leyden.files import load

__all__ = [
    "Augment",
    "DatasetDataModule",
    "Facts",
    "Folder",
    "FolderDataModule",
    "InMemoryDataModule",
    "ModuleData",
    "Table",
    "Text",
    "check_integers",
    "load",
    "open_image",
]

__getattr__ = lazily(
    __name__,
    {
        "Augment": "leyden.data.transforms",
        "DatasetDataModule": "leyden.data.streamed",
        "Facts": "leyden.data.contract",
        "Folder": "leyden.data.folder",
        "FolderDataModule": "leyden.data.folder",
        "InMemoryDataModule": "leyden.data.in_memory",
        "ModuleData": "leyden.data.contract",
        "Table": "leyden.data.table",
        "Text": "leyden.data.text",
        "check_integers": "leyden.data.transforms",
        "load": "leyden.files",
        "open_image": "leyden.data.folder",
    },
)
