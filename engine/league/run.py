"""Ask which frameworks resume exactly, a cell of the table at a time.

python engine/league/run.py [framework=ignite,…] [scenario=ema,…] [seed=41] [write=true] [warm=true]
python engine/league/run.py reproducer=ignite_plateau,…

Each cell is a script of `frameworks/`, run undisturbed and then disturbed twice,
as by `leyden resumetest`. write=true puts the cells in results.json, from which
page.py makes the page and its picture; the exit code is 1 if one differs from there. warm=true starts forks of a process that
has imported the framework, which takes a tenth of the time. A reproducer of
`reproducers/` needs its framework alone; reproducer=all runs each, write=true
keeps what they print in reproducers.json.
"""

import contextlib
import datetime
import fcntl
import importlib
import importlib.metadata
import json
import math
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ |= {"OMP_NUM_THREADS": "1"}  # before PyTorch: a fork has no threads of a pool
sys.path[:0] = [str(HERE / "frameworks")]

import torch  # noqa: E402
from table import FRAMEWORKS, NOT_KILLED, SCENARIOS, launcher_of, script_of  # noqa: E402
from task import DISTURB_AT, DISTURB_BYTES, make_net  # noqa: E402

from leyden.exact import ExactError  # noqa: E402
from leyden.exact.resumption import Starts, compare_killed  # noqa: E402

RESULTS = HERE / "results.json"
REPRODUCED = HERE / "reproducers.json"
SHOWN = re.compile(r"(undisturbed|resumed|before|\d epochs?|3 batches|epoch \d|IndexError)\b.*")
NUM_KILLS = 2
BYTES = {2: 100_000, 3: 40_000}  # of each start that is killed amid a checkpoint
SAYS = re.compile(
    r"not guaranteed|not resumable|unreliable|(can|could|will|does|was|were|are|is|did)(n't| ?not)"
    r".*(resum|restor|reproduc|determin|load|recover|support)|mismatch|corrupt|incomplete|No such file",
    re.IGNORECASE,
)


class Fork:
    """A start of a script in a fork of this process, with the interface of `subprocess.Popen`."""

    def __init__(self, command, output, environment):
        sys.stdout.flush()
        self.code = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = command[1:]
            if command[1] == "-m":
                sys.argv = command[2:]
                runpy.run_module(command[2], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(command[1], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def wait(self, timeout=None):
        """Return the exit code."""
        end = time.monotonic() + (timeout or math.inf)
        while time.monotonic() < end:
            if self.code is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.code = os.waitstatus_to_exitcode(status)
            if self.code is not None:
                return self.code
            time.sleep(0.02)
        raise subprocess.TimeoutExpired("fork", timeout)


class Disturbed(Starts):
    """Starts that are killed, or told to stop, or die amid a checkpoint; it keeps what they print.

    Args:
        scenario: A scenario of the table.
        command: The command of a cell.
        folder: Empty folder.
        is_warm: Whether it starts forks of this process.
    """

    def __init__(self, scenario, command, folder, is_warm):
        super().__init__(command, folder, timeout_s=120, say=lambda text: print(f"  {text}"))
        self.scenario = scenario
        self.is_warm = is_warm and scenario != "ddp"
        self.printed = []
        self.code = 0

    def start(self, kill_at=""):
        """Return the marks and the exit code of a start."""
        how = self.scenario if kill_at else ""
        os.environ[DISTURB_AT] = kill_at if how in NOT_KILLED else ""
        os.environ[DISTURB_BYTES] = str(BYTES[self.number + 1]) if how == "saving" else ""
        marks, self.code = super().start("" if how in NOT_KILLED else kill_at)
        self.printed.append(self.output.read_text(errors="replace"))
        return marks, self.code

    def launch(self, environment):
        """Return the process of a start."""
        if not self.is_warm:
            return super().launch(environment)
        with self.output.open("wb") as output:
            return Fork(self.command, output, environment)

    def says(self):
        """Return the lines by which a framework announces what it does not restore."""
        found = []
        for line in "\n".join(self.printed).splitlines():
            text = " ".join(line.split()).replace(str(self.folder), "DIR")
            if SAYS.search(text) and text not in found:
                found.append(text[:300])
        return found[:3]


def versions_of(names):
    """Return the installed versions of distributions."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def is_installed(framework):
    """Return whether a framework's packages are there."""
    packages = FRAMEWORKS[framework].packages
    return len(versions_of(packages)) == len(packages)


def run_cell(framework, scenario, seed, is_warm):
    """Return a cell: its outcome, and what that was found by."""
    script = [sys.executable, *script_of(framework, scenario)]
    if scenario == "ddp":
        script[1:1] = launcher_of(framework)
    cell = {"framework": framework, "scenario": scenario, "outcome": "", "says": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        starts = Disturbed(scenario, script, Path(folder), is_warm)
        try:
            is_same, text = compare_killed(starts, NUM_KILLS, seed)
        except ExactError as error:
            is_same, text = False, str(error)
        tail = starts.tail().replace(folder, "DIR")
        cell["says"] = starts.says()
    cannot = re.search(r"league: (.*)", "\n".join(starts.printed))
    parts = re.search(r"start \d+ parts at step (\w+): (.*)", text)
    if cannot:
        cell |= {"outcome": "cannot", "text": cannot[1]}
    elif is_same:
        cell |= {"outcome": "same", "text": text}
    elif parts:
        cell |= {"outcome": "parts", "step": parts[1], "parts": parts[2], "text": text}
    elif starts.number == 1:
        cell |= {"outcome": "failed", "text": text}
    elif "nothing was shown" in text:
        cell |= {"outcome": "anew", "text": text}
    elif "ends with exit code" in text and starts.code:
        cell |= {"outcome": "stops", "text": text.splitlines()[0], "says": tail.splitlines()[-1:]}
    else:
        cell |= {"outcome": "ends", "text": text.splitlines()[0]}
    cell["versions"] = versions_of([*FRAMEWORKS[framework].packages, "torch"])
    cell["date"] = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return cell, tail


def write(cell):
    """Put a cell in the file of results, in the order of the table."""
    with (HERE / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may write
        _write(cell)


def read():
    """Return the cells that are recorded."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def is_recorded(cell):
    """Return whether a cell has its recorded outcome."""
    for each in read():
        if each["framework"] == cell["framework"] and each["scenario"] == cell["scenario"]:
            return each["outcome"] == cell["outcome"]
    return False


def _write(cell):
    cells = read()
    key = cell["framework"], cell["scenario"]
    cells = [each for each in cells if (each["framework"], each["scenario"]) != key]
    columns = list(SCENARIOS)
    rows = list(FRAMEWORKS)
    cells.append(cell)
    cells.sort(key=lambda it: (rows.index(it["framework"]), columns.index(it["scenario"])))
    RESULTS.write_text(json.dumps(cells, indent=1) + "\n")


def warm_up():
    """Take a step, by which PyTorch imports the rest of itself."""
    net = make_net("shuffle")
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def run_reproducer(name):
    """Return what a reproducer prints, of lines that begin as its own do."""
    command = [sys.executable, str(HERE / "reproducers" / f"{name}.py")]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder)
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    shown = [line for line in lines if SHOWN.match(line)]
    return [line.partition(" {")[0].strip() for line in shown]  # the Trainer adds seconds


def run_reproducers(names, is_written):
    """Run reproducers; return how many print something else than is recorded."""
    recorded = json.loads(REPRODUCED.read_text()) if REPRODUCED.exists() else {}
    if names == ["all"]:
        names = sorted(path.stem for path in (HERE / "reproducers").glob("*.py"))
    num_others = 0
    for name in names:
        lines = run_reproducer(name)
        print(name, *lines, sep="\n  ", flush=True)
        if lines != recorded.get(name):
            num_others += 1
            print("  not what is recorded", flush=True)
        recorded[name] = lines
    if is_written:
        REPRODUCED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
    return num_others


def main():
    """Run the cells, or reproducers."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    frameworks = given.get("framework", ",".join(FRAMEWORKS)).split(",")
    scenarios = given.get("scenario", ",".join(SCENARIOS)).split(",")
    os.chdir(HERE)
    sys.path.insert(0, str(HERE))
    os.environ |= {
        "PYTHONPATH": str(HERE / "frameworks"),
        "KERAS_BACKEND": "torch",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "reproducer" in given:
        names = given["reproducer"].split(",")
        sys.exit(int(run_reproducers(names, given.get("write") == "true") > 0))
    num_others = 0
    for framework in frameworks:
        if not is_installed(framework):
            print(f"{framework}: not installed ({', '.join(FRAMEWORKS[framework].packages)})")
            continue
        warm = given.get("warm") == "true"
        if warm:
            for name in FRAMEWORKS[framework].imports:
                importlib.import_module(name)
            warm_up()
        for scenario in scenarios:
            print(f"{framework} {scenario}", flush=True)
            cell, tail = run_cell(framework, scenario, int(given.get("seed", "41")), warm)
            print(f"  {cell['outcome']}: {cell['text']} {cell['says']}", flush=True)
            if cell["outcome"] in ("failed", "stops"):
                print(tail, flush=True)
            if not is_recorded(cell):
                num_others += 1
                print("  not what is recorded", flush=True)
            if given.get("write") == "true" and cell["outcome"] != "failed":
                write(cell)
    sys.exit(int(num_others > 0))


if __name__ == "__main__":
    main()
