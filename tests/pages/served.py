"""A process that has imported what takes long, and forks for each command: `python served.py`, one JSON a line.

A command is {"words": [...], "cwd": the project, "output": a file}; its exit code is the answer.
"""

import json
import os
import runpy
import sys
import traceback

HEAVY = (
    "torch torchvision lightning torchmetrics hydra matplotlib.figure tensorboard optuna onnx onnxruntime PIL.Image"
)


def run(words: list[str], cwd: str) -> None:
    """What Python would do with these words; the project's packages are those below `cwd`."""
    os.chdir(cwd)
    sys.path[0:1] = [cwd, f"{cwd}/src", f"{cwd}/scripts"]
    os.environ["PYTHONPATH"] = f"{cwd}/src"
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
        run(task["words"], task["cwd"])
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
    for name in HEAVY.split():
        __import__(name)
    for line in sys.stdin:
        task = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(child(task))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
