"""Adopt Leyden in an existing project: write conf/train.yaml for its code.

leyden init task=PACKAGE.MODULE.CLASS [data=PACKAGE.MODULE.CLASS]

Writes conf/train.yaml in the working directory, which makes it a project. task=
names the LightningModule, data= the LightningDataModule; without it, the
LightningModule has its own data loaders.
"""

from pathlib import Path

from leyden.base.arguments import parse_arguments
from leyden.base.errors import UserError, ending
from leyden.base.paths import find_project
from leyden.base.terminal import leyden_command
from leyden.scaffold import write_train_config


def main() -> None:
    """Run the command."""
    with ending():
        _, given = parse_arguments(__doc__, {"task": "", "data": "module"}, max_folders=0)
        task = given["task"]
        data = given["data"]
        project = find_project(Path.cwd())
        if project:
            file = project / "conf" / "train.yaml"
            raise UserError(f"{file}: exists, so this is a project already")
        if not task:
            raise UserError(
                "task=PACKAGE.MODULE.CLASS: name the LightningModule, such as task=lab.net.Net"
            )
        write_train_config(Path.cwd(), task, data)
        data_shown = "its own data" if data == "module" else data
        print(f"conf/train.yaml is written: it trains {task} on {data_shown}")
        print(
            "the arguments of your own Trainer(...) are not taken over: "
            "set trainer.KEY, callbacks and logger in conf/"
        )
        train = leyden_command("train")
        print(f"next steps:\n  check it:\n    {train} dry_run=true\n  train:\n    {train}")


if __name__ == "__main__":
    main()
