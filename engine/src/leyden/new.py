"""Write the file and the YAML of a new network, task or dataset.

leyden new model=NAME | task=NAME [from=TASK] | data=NAME

Writes a class that works as it is, and the YAML that chooses it. For example,
leyden new model=capsule writes models/capsule.py in the project's package,
conf/model/capsule.yaml and conf/sweep/capsule.yaml.

  from=TASK          what a new task begins as: classification, which is the
                     default, regression, forecast (with data and a recipe),
                     contrastive (with a probe), autoencoder or language
"""

from leyden.base.arguments import parse_arguments, parse_choice
from leyden.base.errors import UserError, ending, require_project
from leyden.scaffold import PART_FILES, TASKS, write_part


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(
            __doc__, dict.fromkeys((*PART_FILES, "from"), ""), max_folders=0
        )
        require_project()
        asked = options.pop("from")
        base = asked or "classification"
        given = {kind: name for kind, name in options.items() if name}
        if len(given) != 1:
            raise UserError("give one of model=NAME, task=NAME and data=NAME")
        ((kind, name),) = given.items()
        if asked and kind != "task":
            raise UserError(f"from={asked}: is for task=NAME")
        write_part(kind, name, parse_choice({"from": base}, "from", *TASKS))
        if kind == "task" and not asked:
            others = ", ".join(TASKS).removeprefix("classification, ")
            print(f"it begins as classification; from=TASK begins as another: {others}")


if __name__ == "__main__":
    main()
