"""A process that has imported what takes long, and forks for each command: `python served.py PROJECT`, one JSON a line.

A command is {"words": [...], "output": a file}; its exit code is the answer. The engine is that of the project, whose
other packages are imported anew by each command.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

HEAVY = (
    "torch torchvision lightning torchmetrics hydra matplotlib.figure tensorboard optuna onnx onnxruntime PIL.Image"
)


def run(words: list[str]) -> None:
    """What Python would do with these words."""
    sys.orig_argv = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def child(task: dict) -> int:
    """The exit code."""
    output = os.open(task["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        run(task["words"])
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main() -> None:
    """Serve until the input ends."""
    project = sys.argv[1]
    os.chdir(project)
    sys.path[0:1] = [project, f"{project}/src", f"{project}/scripts"]
    os.environ["PYTHONPATH"] = f"{project}/src"
    engine = Path(project, "src", "leyden")
    nouns = [path.relative_to(engine.parent).with_suffix("") for path in engine.glob("*/*.py")]
    for name in [*HEAVY.split(), *(".".join(path.parts) for path in nouns if path.name != "__init__")]:
        importlib.import_module(name)
    for line in sys.stdin:
        task = json.loads(line)
        os.chdir(project)  # it may be another folder in the same place
        pid = os.fork()
        if pid == 0:
            os._exit(child(task))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
