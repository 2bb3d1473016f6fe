"""Provenance of a run: code, packages, command, machine, and what else can change bits."""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from leyden.base.errors import is_library
from leyden.base.paths import LIBRARY, PROJECT, code_folders, root
from leyden.run.files import read_json
from leyden.run.process import num_cores


def git(
    at: Path, *arguments: str, environment: dict[str, str] | None = None, stdin: str | None = None
) -> str | None:
    """Run git and return its output, or None if it fails.

    Line ends and bytes that are not UTF-8 are preserved.

    Args:
        at: Working directory.
        arguments: Command-line arguments.
        environment: Environment variables; None for those of this process.
        stdin: Text for git's standard input.
    """
    environment = dict(environment or os.environ)
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # reading commands write nothing
    given = None
    if stdin is not None:
        given = stdin.encode(errors="surrogateescape")
    command = ["git", "-C", str(at), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, input=given)
    except (OSError, ValueError):
        return None
    if done.returncode:
        return None
    return done.stdout.decode(errors="surrogateescape")


# The commit and the diff, in the copy of the code that a cluster's jobs run.
GIT_OF_COPY = "git.json"
MAX_FILE_BYTES, MAX_DIFF_BYTES = 2**20, 2**24
# Options for a diff that `git apply` accepts, whatever the user has configured.
DIFF_OPTIONS = (
    "--binary",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--ignore-submodules=all",
)
# Environment variables that can change bits; `reproduce` sets those of a run again. The number of
# threads is not among them, since the number that PyTorch uses is recorded.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "PYTHONHASHSEED",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE",
)


def origin(
    overrides: list[str],
    *,
    groups: Mapping[str, Any] | None = None,
    parent: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
    step: int | None = None,
    code: dict[str, str] | None = None,
    job: str | None = None,
) -> dict[str, Any]:
    """Return the provenance of a start, as recorded in `starts.json`.

    Args:
        overrides: Overrides on the command line.
        groups: The chosen option of each config group; None if they are unknown.
        parent: Checkpoint of another run that this start took weights from: `checkpoint` and its
            `sha256`.
        machine: Result of `machine()`; None if the start does not train.
        data: SHA-256 of the training data, by name; None if the start does not train.
        step: Number of optimizer steps in the checkpoint that it resumes from, 0 without one; None
            if it does not train.
        code: SHA-256 of the user's own files that are imported, by name.
        job: Id of the cluster's job that this process belongs to; None outside of a job.
    """
    return {
        "time": now(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "directory": str(Path.cwd()),
        "overrides": overrides,
        "groups": dict(groups or {}),
        "parent": parent,
        "host": platform.node(),
        "machine": machine,
        "data": data,
        "pid": os.getpid(),
        "job": job,
        "step": step,
        "code": code,
        "git": state_of_code(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


@functools.cache  # takes 0.1 s
def installed_versions() -> dict[str, str]:
    """Return the versions of all packages; with the commit or hash if from no index.

    What lies in the project's own folders is left out: it is code, and another checkout has it
    elsewhere.
    """
    folders = [root(), Path.cwd(), *code_folders(root())]
    own = {str(folder) for folder in folders}
    places = []
    for place in sys.path:
        if place and str(Path(place).absolute()) not in own:
            places.append(place)
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions(path=places):
        with contextlib.suppress(Exception):  # a damaged installation must not end a run
            source = json.loads(package.read_text("direct_url.json") or "{}")
            commit = source.get("vcs_info", {}).get("commit_id")
            digest = commit or source.get("archive_info", {}).get("hash")
            name = re.sub(r"[-_.]+", "-", package.name).lower()
            version = f"{package.version} @ {digest}" if digest else package.version
            found.setdefault(name, version)
    return dict(sorted(found.items()))


def state_of_code() -> dict[str, Any]:
    """Return the commit and uncommitted changes, as for `git apply`; None without git.

    Untracked files that git does not ignore are included. Those larger than `MAX_FILE_BYTES` are
    listed in `left_out` instead, and a diff larger than `MAX_DIFF_BYTES` is left out as a whole.
    Repositories within this one, submodules among them, are in `left_out`: git would execute what
    their configurations name, which may be a stranger's.
    """
    folder = root()
    if PROJECT in os.environ:
        copied = read_json(folder / GIT_OF_COPY, None)
        if isinstance(copied, dict):
            return copied
    found = git(folder, "rev-parse", "HEAD", "--path-format=absolute", "--git-path", "index")
    listed = git(folder, "ls-files", "--others", "--exclude-standard", "-z")
    if found is None or listed is None:
        return {"sha": None, "dirty": None, "diff": None, "left_out": []}
    sha, index = found.splitlines()
    diff, small, left_out = _changes(Path(index), listed)
    if diff is None or len(diff) > MAX_DIFF_BYTES:
        return {"sha": sha, "dirty": True, "diff": None, "left_out": ["all changes"]}
    staged = (git(folder, "ls-files", "--stage", "-z") or "").split("\0")
    # Submodules, among what is staged.
    names = [each.partition("\t")[2] for each in staged if each.startswith("160000 ")]
    modules = [f"{name}/" for name in names]
    left_out = sorted({*left_out, *modules} - {*small})
    return {
        "sha": sha,
        "dirty": diff != "" or bool(left_out),
        "diff": diff,
        "left_out": left_out,
    }


NUM_TRIES = 5


def _changes(index: Path, listed: str) -> tuple[str | None, list[str], list[str]]:
    """Return the diff or None, the new files that are in it, and those that are left out.

    Another process may delete new files at any time, with which git fails: it is asked again,
    without them.

    Args:
        index: Path of the repository's index.
        listed: Names of untracked files, and of repositories, which end in a slash, by git.
    """
    names = [name for name in listed.split("\0") if name]
    left_out = [name for name in names if name.endswith("/")]
    files = [name for name in names if not name.endswith("/")]
    for _ in range(NUM_TRIES):
        sizes = _sizes(files)
        small = [name for name, size in sizes.items() if size <= MAX_FILE_BYTES]
        if sum(sizes[name] for name in small) > MAX_DIFF_BYTES:
            return None, small, left_out
        diff = _diff(index, small)
        if diff is not None:
            break
    return diff, small, [*left_out, *sizes.keys() - {*small}]


def _sizes(names: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of those files of the project that are there."""
    folder = root()
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            if stat.S_ISREG(status.st_mode):
                found[name] = status.st_size
    return found


def _diff(index: Path, new: Sequence[str]) -> str | None:
    """Return the diff of the uncommitted changes with these new files; None if git fails."""
    with tempfile.TemporaryDirectory() as temporary:
        # New files are added to a copy of the index, so that the user's index stays unchanged.
        environment = {**os.environ, "GIT_INDEX_FILE": f"{temporary}/index"}
        if index.exists():
            # This keeps the modification time, by which git detects changed files.
            shutil.copy2(index, f"{temporary}/index")
        # There may be too many for a command line.
        words = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
        if new and git(root(), *words, environment=environment, stdin="\0".join(new)) is None:
            return None
        return git(root(), "diff", *DIFF_OPTIONS, "HEAD", environment=environment)


def now() -> str:
    """Return the local time with its time zone, in ISO 8601."""
    return datetime.now().astimezone().isoformat()


def machine(num_processes: int = 1) -> dict[str, Any]:
    """Return the processor, the GPUs, the threads of a process, and what else can change bits.

    That is the CPU instruction set that PyTorch uses, its flags, and environment variables; the
    versions of the libraries below it are in those of its packages.

    Args:
        num_processes: Processes of the run, among which Lightning divides the cores unless
            `OMP_NUM_THREADS` is set.
    """
    import torch

    num_gpus = 0
    if torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
    num_threads = torch.get_num_threads()
    if num_processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        num_threads = max(1, num_cores() // num_processes)
    found = {
        "system": platform.platform(),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": num_cores(),
        "threads": num_threads,
        "gpus": [torch.cuda.get_device_name(number) for number in range(num_gpus)],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    # PyTorch raises for some that its build lacks; a run that needs none must not end.
    with contextlib.suppress(Exception):
        found["flags"] = _flags()
    return found


def _flags() -> dict[str, Any]:
    """Return PyTorch's settings by which the same operation gives other bits."""
    import torch

    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    return {
        "deterministic": torch.get_deterministic_debug_mode(),
        "dtype": str(torch.get_default_dtype()),
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.precision": cudnn.conv.fp32_precision,
        "matmul.precision": matmul.fp32_precision,
        "matmul.reduced_fp16": matmul.allow_fp16_reduced_precision_reduction,
        "matmul.reduced_bf16": matmul.allow_bf16_reduced_precision_reduction,
        "mkldnn": backends.mkldnn.enabled,
    }


def _cpu() -> str:
    """Return the name of the processor, which Python alone knows only on some systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# Name of the last module that was imported in the process that this one is a fork of.
_preloaded = ""


def skip_preloaded() -> None:
    """Make `code_of` skip what is imported now: none of it is the user's.

    To look at it, a fork would copy its memory.
    """
    global _preloaded
    _preloaded = next(reversed(sys.modules))


def code_of() -> dict[str, str]:
    """Return the SHA-256 of each file of the user's own that this process imported.

    Names are paths such as `project/models/mlp.py`, wherever the package lies: a cluster's jobs run
    from a copy.
    """
    found = {}
    # What was imported before this process was forked is not the user's.
    names = itertools.takewhile(lambda name: name != _preloaded, reversed(sys.modules))
    for name in [*names]:
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if name.partition(".")[0] in ("tests", "conftest") or not _is_own(file):
            continue  # what pytest has imported is not the run's code
        place = name.replace(".", "/")
        if Path(file).name == "__init__.py":
            place += "/__init__"
        digest = _digest(file)
        if digest:  # a file that has gone is not compared at a resume
            found[f"{place}.py"] = digest
    return dict(sorted(found.items()))


def _is_own(file: str) -> bool:
    """Return whether a file is a module of the user's."""
    if not file.endswith(".py") or not Path(file).is_absolute():
        return False
    return not file.startswith(str(LIBRARY)) and not is_library(file)


def changed_code(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of files that differ from the last start that recorded some.

    Files that are not here are left out.
    """
    recorded: dict[str, str] = {}
    for start in starts:
        recorded = start.get("code") or recorded
    imported = code_of()
    changed = []
    for name, digest in recorded.items():
        here = imported.get(name) or _digest(_first_in_path(name))
        if here and here != digest:
            changed.append(name)
    return changed


def _first_in_path(name: str) -> str:
    """Return the first file of this name in the folders of modules; empty without one."""
    for folder in sys.path:
        path = f"{folder or '.'}/{name}"
        if os.path.isfile(path):  # noqa: PTH113 - much faster, over many folders
            return path
    return ""


@functools.cache  # what a file held at first counts, as a process keeps what it has imported
def _digest(path: str) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return ""
    lines = content.replace(b"\r\n", b"\n")
    return hashlib.sha256(lines).hexdigest()
