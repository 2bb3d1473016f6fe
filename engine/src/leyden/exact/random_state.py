"""Global random states of Python, NumPy and PyTorch: saved, restored, and seeded for data hooks."""

import contextlib
import hashlib
import os
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from leyden.exact import ExactError


class _Entropy:
    """Source of the entropy of NumPy generators that are created without a seed.

    It hashes a key and a counter.

    Attributes:
        key: Text that determines the numbers; empty while NumPy uses its own source.
        count: How many numbers were drawn.
        worker: The worker of a loader in which the key was set, if any.
    """

    def __init__(self) -> None:
        self.key = ""
        self.count = 0
        self.worker = get_worker_info()
        self._of_numpy = np.random.bit_generator.randbits  # type: ignore[attr-defined]

    def set(self, key: str, count: int = 0) -> None:
        self.key = key
        self.count = count
        self.worker = get_worker_info()
        source = self.draw if key else self._of_numpy
        # NumPy asks this function, and has no public way to replace it.
        np.random.bit_generator.randbits = source  # type: ignore[attr-defined]

    def draw(self, num_bits: int) -> int:
        self.count += 1
        # The workers of a loader are copies: each has a seed of its own, other ones in each epoch.
        worker = get_worker_info()
        seed = ""
        if worker and worker is not self.worker:
            seed = str(worker.seed)
        text = f"{self.key} {self.count} {seed}"
        num_bytes = (num_bits + 7) // 8
        content = hashlib.shake_256(text.encode()).digest(num_bytes)
        number = int.from_bytes(content, "little")
        surplus = -num_bits % 8
        return number >> surplus


_entropy = _Entropy()


def check_seed(seed: Any) -> None:
    """Check a seed.

    Raises:
        ValueError: It is none.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be a whole number from 0 to {2**32 - 1}")


def check_same_seed(before: int, now: int) -> None:
    """Check the seed at a resume.

    Raises:
        ExactError: It has changed.
    """
    if before != now:
        raise ExactError(f"trained with seed {before}, and this start has {now}")


def seed_everything(seed: int, stage: str) -> None:
    """Seed the random numbers of Python, NumPy and PyTorch.

    NumPy generators that are created without a seed are seeded, too.

    Args:
        seed: The run's seed.
        stage: What is created next: generators without a seed draw other numbers in each stage.
    """
    # By these, Lightning seeds the processes that it starts, and leaves workers as they are.
    os.environ.update(PL_GLOBAL_SEED=str(seed), PL_SEED_WORKERS="0")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    seed_entropy(seed, stage)


def seed_entropy(seed: int, stage: str) -> None:
    """Seed the NumPy generators that will be created without one, as by `default_rng()`."""
    _entropy.set(f"seed {seed}, {stage}")


def random_states() -> dict[str, Any]:
    """Return the random states of Python, NumPy and PyTorch, as tensors and plain values.

    They are those of the CPU and of a GPU in use.
    """
    states: dict[str, Any] = {}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    states["entropy"] = [_entropy.key, _entropy.count]
    states["python"] = random.getstate()
    _, keys, *rest = np.random.get_state()
    numbers = np.asarray(keys).tolist()
    states["numpy"] = [numbers, *rest]
    states["torch"] = torch.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the states that `random_states` returned."""
    key, count = states["entropy"]
    _entropy.set(str(key), int(count))
    random.setstate(states["python"])
    numbers, *rest = states["numpy"]
    keys = np.array(numbers, dtype=np.uint32)
    np.random.set_state(("MT19937", keys, *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Context that restores all random states at its end, and NumPy's own source of entropy."""
    before = random_states()
    on_gpu = None
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        on_gpu = torch.cuda.get_rng_state_all()
    try:
        yield
    finally:
        restore_random_states(before)
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)


def _seed(python: int, numpy: int, torch_seed: int, entropy: str) -> None:
    """Seed the random numbers of this process, but not those of a GPU that is not initialized yet.

    `torch.manual_seed` would seed such a GPU, too, permanently.
    """
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(torch_seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(torch_seed)
    _entropy.set(entropy)


@contextlib.contextmanager
def seeded_as_run(seed: int, stage: str) -> Iterator[None]:
    """Context with the random states that `seed_everything` sets; it restores the previous ones."""
    with undisturbed():
        _seed(seed, seed, seed, "")
        seed_entropy(seed, stage)
        yield


@contextlib.contextmanager
def seeded(seed: int, stage: str, epoch: int = 0) -> Iterator[None]:
    """Context with random states by the arguments alone; it restores the previous ones.

    NumPy generators that are created without a seed, such as by `np.random.default_rng()`, are
    determined by the arguments, too, instead of the system's entropy.

    Args:
        seed: The run's seed.
        stage: Name of a data module's hook.
        epoch: Epoch for which the loaders are created.
    """
    of_stage = zlib.crc32(stage.encode())
    words = np.random.SeedSequence([seed, of_stage, epoch]).generate_state(4)
    python, numpy, torch_seed, entropy = words.tolist()
    with undisturbed():
        _seed(python, numpy, torch_seed, f"{stage} {entropy}")
        yield


def seed_by_text(text: str) -> None:
    """Seed the random numbers of this process, but not of a GPU; `undisturbed` restores them."""
    random.seed(text)  # by its SHA-512, so similar texts give independent streams
    torch.default_generator.manual_seed(random.getrandbits(63))
    np.random.seed(random.getrandbits(32))
    _entropy.set(text)


class Stream:
    """Random states that take turns with others in a process, such as those of a virtual rank.

    Begins as a copy of those at hand. To exchange NumPy's generator is quick; its state is slow.
    """

    def __init__(self) -> None:
        self._python = random.getstate()
        self._torch = torch.get_rng_state()
        self._cuda: torch.Tensor | None = None
        self._entropy = (_entropy.key, _entropy.count)
        self._numpy: Any = np.random.MT19937()
        self._numpy.state = np.random.get_bit_generator().state  # type: ignore[attr-defined, assignment]
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._cuda = torch.cuda.get_rng_state()

    def keep(self) -> None:
        """Take the states at hand."""
        self._python = random.getstate()
        self._torch = torch.get_rng_state()
        self._entropy = (_entropy.key, _entropy.count)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._cuda = torch.cuda.get_rng_state()

    def load(self) -> None:
        """Let others draw from these states."""
        random.setstate(self._python)
        torch.set_rng_state(self._torch)
        _entropy.set(*self._entropy)
        np.random.set_bit_generator(self._numpy)  # type: ignore[attr-defined]
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


def seed_rank(rank: int) -> None:
    """Seed the random numbers of one of several processes; rank 0 draws as a single one would."""
    if rank == 0:
        return
    key = [torch.initial_seed(), rank]
    words = np.random.SeedSequence(key).generate_state(3)
    of_python, of_numpy, of_torch = words.tolist()
    random.seed(of_python)
    np.random.seed(of_numpy)
    torch.manual_seed(of_torch)
    _entropy.set(f"{_entropy.key}, rank {rank}")
