"""The GPUs that a sweep shares out, as the driver tells: PyTorch would begin to use them here, where nothing is computed."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

from leyden.config.mistakes import UserError

USES_CUDA = ("auto", "gpu", "cuda")  # of trainer.accelerator
TIMEOUT_S = 60  # a driver that is not loaded yet takes half of it, with many GPUs
NODES = Path("/dev")
GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)")
MIG = re.compile(r"^\s+MIG .*\(UUID: (MIG-[\w/-]+)\)", re.MULTILINE)
NAMED = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


def visible_devices() -> list[str]:
    """The CUDA devices that processes started here may use, each as CUDA_VISIBLE_DEVICES takes it; none without a driver.

    A node in `/dev` tells nothing: in a container `/dev/nvidia3` alone is device 0.

    Raises:
        UserError: There are GPUs, and the driver does not tell which.
    """
    if importlib.metadata.version("torch").endswith("+cpu"):  # it can't use them
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _asked() if chosen is None else named(chosen)


def named(chosen: str) -> list[str]:
    """What CUDA takes of a value of CUDA_VISIBLE_DEVICES: all before the first that names no device.

    Raises:
        UserError: It names one twice; then CUDA takes none.

    Example:
        >>> named("2,GPU-8a,-1,3"), named("NoDevFiles"), named("")
        (['2', 'GPU-8a'], [], [])
    """
    devices: list[str] = []
    for device in chosen.split(","):
        if not NAMED.fullmatch(device.strip()):
            break
        devices.append(device.strip())
    if len({*devices}) < len(devices):
        raise UserError(f"CUDA_VISIBLE_DEVICES={chosen}: names a device twice, and CUDA takes none of them then")
    return devices


def _asked() -> list[str]:
    told, problem = "", "nvidia-smi is not installed"
    if program := shutil.which("nvidia-smi"):
        try:
            ended = subprocess.run(
                [program, "-L"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
            told = "" if ended.returncode else ended.stdout
            problem = (
                f"nvidia-smi -L ended with {ended.returncode}" if ended.returncode else "nvidia-smi -L names no GPU"
            )
        except subprocess.TimeoutExpired:
            problem = f"nvidia-smi -L gave no answer in {TIMEOUT_S} s"
        except OSError as error:
            problem = f"nvidia-smi can't be started ({error.strerror})"
    blocks = re.split(r"^(?=GPU \d+:)", told, flags=re.MULTILINE)
    gpus = [(found[1], found[2], MIG.findall(block)) for block in blocks if (found := GPU.match(block))]
    if any(
        parts for *_, parts in gpus
    ):  # then CUDA counts otherwise than the driver; by their names all can be told
        return [device for _, uuid, parts in gpus for device in parts or [uuid]]
    if gpus:
        return [number for number, *_ in gpus]
    if "No devices" not in told and any(re.fullmatch(r"nvidia\d+", node.name) for node in NODES.glob("nvidia*")):
        raise UserError(
            f"the GPUs of this machine can't be told: {problem}; CUDA_VISIBLE_DEVICES=0,1 in the environment names them, "
            "trainer.accelerator=cpu does without"
        )
    return []
