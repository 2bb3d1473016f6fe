"""Write the tables of `docs/keys.md`: the root keys of `conf/run_defaults.yaml`, and the roles of `run/keys.py`."""

import re
from pathlib import Path

from leyden.run.keys import KEYS, Role

ENGINE = Path(__file__).parents[1]
PAGE = ENGINE / "docs" / "keys.md"
DEFAULTS = ENGINE / "src" / "leyden" / "conf" / "run_defaults.yaml"
# A key with its value, and a comment that may continue in lines of its own.
LINE = re.compile(r"^(?:  |# )?([a-z_]+):(?: (.*?))?  # (.+(?:\n {9,}# .+)*)$", re.M)
COLUMNS = {
    Role.BITS: "changes bits",
    Role.NAMED: "names a job",
    Role.RECORDED: "recorded",
    Role.RESUMED: "resumed with",
    Role.FORKED: "forked with",
}
FURTHER = {
    Role.PATH: "a path",
    Role.NOTE: "kept until it is typed anew",
    Role.SAMPLES: "decides on which samples metrics are computed",
    Role.TEST_SET: "decides the test set",
    Role.EPOCH: "can't be changed by a fork within an epoch",
    Role.PARENT: "can't be changed by a fork",
    Role.LIMIT: "1 is one batch, 1.0 all of them",
    Role.EVALUATED: "an evaluation takes it from the run",
}


def root_keys() -> str:
    """Return the table of the root keys, with their default values and comments."""
    text = DEFAULTS.read_text().partition("\nhydra:\n")[0]
    lines = ["| key | default | is |", "|---|---|---|"]
    parent = ""
    for match in LINE.finditer(text.partition("\n\n")[2]):
        key, default, comment = match.groups(default="")
        is_inner = match[0].startswith("  ")
        if not is_inner:
            parent = key
        name = f"{parent}.{key}" if is_inner else key
        if default == "null" or "$" in default:
            default = ""
        words = re.sub(r"\s*\n\s*# ", " ", comment)
        linked = re.sub(r"docs/((\w+)\.md)", r"[\2](\1)", words)
        lines.append(f"| `{name}` | {default} | {linked} |")
    return "\n".join(lines)


def roles() -> str:
    """Return the table of roles, a row for the keys that have the same ones."""
    lines = [f"| keys | {' | '.join(COLUMNS.values())} | |", "|---" * (len(COLUMNS) + 2) + "|"]
    for each in dict.fromkeys(KEYS.values()):
        keys = ", ".join(f"`{key}`" for key, found in KEYS.items() if found == each)
        marks = ["yes" if role in each else "" for role in COLUMNS]
        shown = each & ~Role.EPOCH if Role.PARENT in each else each
        further = [words for role, words in FURTHER.items() if role in shown]
        lines.append(f"| {keys} | {' | '.join(marks)} | {'; '.join(further)} |")
    return "\n".join(lines)


def page() -> str:
    """Return the page with both tables made anew."""
    text = PAGE.read_text()
    for name, table in (("root keys", root_keys()), ("roles", roles())):
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
