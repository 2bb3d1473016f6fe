"""Write the file and the YAML of a new network, task or dataset.

leyden new model=NAME | task=NAME | data=NAME

Writes a class that works as it is, and the YAML that chooses it. For example,
leyden new model=capsule writes models/capsule.py in the project's package,
conf/model/capsule.yaml and conf/sweep/capsule.yaml.
"""

from leyden.config.errors import UserError, ending, parse_arguments, require_project
from leyden.scaffold import PARTS, write_part


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(__doc__, dict.fromkeys(PARTS, ""), max_folders=0)
        require_project()
        given = {kind: name for kind, name in options.items() if name}
        if len(given) != 1:
            raise UserError("give one of model=NAME, task=NAME and data=NAME")
        ((kind, name),) = given.items()
        write_part(kind, name)


if __name__ == "__main__":
    main()
