"""Images per second from a folder, beside a plain `DataLoader` over torchvision's `ImageFolder`; memory beside the size.

    python engine/bench/stream.py

Both read the same JPEGs by the same number of workers: the largest middle square, resized to 224 x 224, as floats from 0 to
1 in batches of 64. An epoch is timed, the second one of the same workers. A round measures both on each size of image, in
an order of its own. Memory is that of all processes together, what they share counted once (PSS), at its peak.
Both have the pages of memory that Leyden's commands ask for.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import write_jpeg
from torchvision.transforms import v2

from leyden.data.folder import FolderDataModule

SIZE, BATCH, WORKERS = 224, 64, 2
# Rows and columns of the images, and how many; of the first kind none can be decoded at half of its size.
KINDS = {"320 x 240": ((240, 320), 3000), "1600 x 1200": ((1200, 1600), 600)}


def write(folder: Path, shape: tuple[int, int], num: int) -> None:
    """JPEGs of two classes, smooth with noise, as photographs are."""
    generator = torch.Generator().manual_seed(0)
    first = []
    for n in range(num):
        path = folder / "train" / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(first) == 50:
            shutil.copyfile(first[n % 50], path)  # a file of its own, of the same content
            continue
        colours = 255 * torch.rand(1, 3, 12, 16, generator=generator)
        pixels = interpolate(colours, shape, mode="bicubic") + 8 * torch.randn(
            1, 3, *shape, generator=generator
        )
        write_jpeg(pixels[0].clamp(0, 255).byte(), str(path), quality=92)
        first.append(path)


def plain(folder: str) -> Iterable[object]:
    """Batches as PyTorch and torchvision give them."""
    steps = [
        v2.Resize(SIZE),
        v2.CenterCrop(SIZE),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    images = ImageFolder(f"{folder}/train", v2.Compose(steps))
    return DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)


def leyden(folder: str) -> Iterable[object]:
    """Batches as `data=folder` gives them."""
    data = FolderDataModule(
        root=folder, image_size=[SIZE, SIZE], channels=3, batch_size=BATCH, eval_batch_size=BATCH, val_size=0,
        num_workers=WORKERS, normalize="unit", augment=None, seed=0,
    )  # fmt: skip
    data.setup("fit")
    return data.train_dataloader()


PROGRAMS = {"leyden": leyden, "plain": plain}


def megabytes() -> float:
    """Memory of this process and of its children."""
    total = 0
    for pid in [
        os.getpid(),
        *map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
    ]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1e3


def program(name: str, folder: str) -> None:
    """Go through the images twice, and print what was found."""
    torch.set_num_threads(1)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            try:
                peak[0] = max(peak[0], megabytes())
            except (OSError, StopIteration):  # a child has just ended
                continue

    batches = PROGRAMS[name](folder)
    for _ in batches:  # starts the workers, and lets the disk's cache take what it can
        pass
    (watching := threading.Thread(target=watch)).start()
    start = time.perf_counter()
    num = sum(len(batch[0]) for batch in batches)  # type: ignore[index]
    seconds = time.perf_counter() - start
    done.set()
    watching.join()
    print(json.dumps({"images_per_s": num / seconds, "peak_mb": peak[0]}))


def measure(name: str, folder: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--program", name, "--folder", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--gigabytes", type=float, nargs="*", default=[1, 4], help="data to measure the memory on"
    )
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        program(arguments.program, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        rates: dict[str, dict[str, list[float]]] = {
            kind: {name: [] for name in PROGRAMS} for kind in KINDS
        }
        for kind, (shape, num) in KINDS.items():
            write(Path(made, kind), shape, num)
        pairs = [(kind, name) for kind in KINDS for name in PROGRAMS]
        for number in range(arguments.rounds):
            for kind, name in random.Random(number).sample(pairs, len(pairs)):
                rates[kind][name].append(measure(name, Path(made, kind))["images_per_s"])
        print(f"{os.cpu_count()} cores, {WORKERS} workers, n = {arguments.rounds}\n")
        print(
            "| images | Leyden, images per s | plain DataLoader | ratio, median of rounds |\n|---|---|---|---|"
        )
        for kind, found in rates.items():
            ratio = statistics.median(
                a / b for a, b in zip(found["leyden"], found["plain"], strict=True)
            )
            ours, theirs = (statistics.median(found[name]) for name in PROGRAMS)
            print(f"| {kind} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} |", flush=True)
    print("\n| data | Leyden, peak memory | plain DataLoader |\n|---|---|---|")
    shape = (1200, 1600)
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory() as made:
            write(Path(made), shape, 50)
            size = sum(path.stat().st_size for path in Path(made).rglob("*.jpg")) / 50
            write(Path(made), shape, num := round(gigabytes * 1e9 / size))
            ours, theirs = (measure(name, Path(made))["peak_mb"] for name in PROGRAMS)
            print(
                f"| {gigabytes:g} GB, {num} images | {ours:.0f} MB | {theirs:.0f} MB |", flush=True
            )


if __name__ == "__main__":
    main()
