"""Complete commands in bash, zsh and fish: prints what a shell needs for it."""

import sys
from pathlib import Path

from leyden.editor.complete import SHELLS, complete

USAGE = """\
eval "$(leyden completion bash)"      in ~/.bashrc
eval "$(leyden completion zsh)"       in ~/.zshrc
leyden completion fish | source       in ~/.config/fish/config.fish

Then TAB completes verbs, groups, keys, choices and run directories; docs/editors.md tells more."""


def main() -> None:
    """The command: prints the lines for a shell, or what the shell asks for at a TAB."""
    shell, *line = sys.argv[1:] or ["--help"]
    if shell in ("-h", "--help"):
        print(USAGE)
    elif shell not in SHELLS or len(line) > 2:
        from leyden.config.terminal import warn  # which takes as long to import as all else

        warn(f"{' '.join(sys.argv[1:])}: must be one of {', '.join(SHELLS)}")
        raise SystemExit(2)
    elif not line:
        print((Path(__file__).parent / "editor" / f"completion.{shell}").read_text(encoding="utf-8"), end="")
    else:
        for word in complete(*line):
            print(word)


if __name__ == "__main__":
    main()
