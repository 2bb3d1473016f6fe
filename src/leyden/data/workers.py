"""Processes that work ahead: what they make comes in order, and none of them outlives this one."""

import contextlib
import multiprocessing
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from leyden.config.errors import UserError
from leyden.run.process import die_with_parent

AHEAD = 2  # tasks of a worker that are under way, or done and not taken yet
# What a terminal or a cluster sends to all processes at once is for the one that trains: it has to save first.
NOT_THEIRS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@dataclass(frozen=True)
class WorkerFailure:
    """What a task has failed by in a worker.

    Args:
        task: Which.
        text: The traceback.
    """

    task: Any
    text: str


class Workers:
    """Processes that do tasks for this one; they are started at once.

    They end with `close`, with this object, and with this process, however it ends.

    Args:
        work: Is called with a task; each process has a copy of it as it is now.
        num_workers: How many.

    Example:
        >>> workers = Workers(len, 2)
        >>> list(workers.map(["a", "bc", "def"]))
        [1, 2, 3]
        >>> workers.close()
    """

    def __init__(self, work: Callable[[Any], Any], num_workers: int) -> None:
        # A copy of this process shares its memory until one of the two writes to it, and has imported everything. Elsewhere that is
        # not safe, or there is no such thing.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._due: deque[tuple[Connection, BaseProcess]] = deque()  # who gives the next results, in their order
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of locks that other threads hold: a worker needs none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()  # else it would not be closed when the process dies
            self._connections.append(ours)
            self._processes.append(process)
        # Python itself would ask its children to end by a signal that is not theirs, and wait for them.
        self._finalize = Finalize(self, _stop, args=(self._processes, self._connections), exitpriority=0)

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """What comes of each task, or its `Failure`, in order; some are under way before they are asked for.

        A result that is a tuple of tensors lies in memory that a later one takes: it holds until the next is asked for.

        Raises:
            UserError: A process has died.
        """
        while self._due:  # of an iteration that was left before its end
            self._take()
        workers = cycle(zip(self._connections, self._processes, strict=True))
        for task in tasks:
            worker = next(workers)
            with contextlib.suppress(OSError):  # it has died, which is told when its result is due
                worker[0].send(task)
            self._due.append(worker)
            if len(self._due) == AHEAD * len(self._processes):
                yield self._take()
        while self._due:
            yield self._take()

    @property
    def is_open(self) -> bool:
        """Whether there are processes."""
        return self._finalize.still_active()

    def close(self) -> None:
        """End the processes, whatever they do."""
        self._finalize()

    def _take(self) -> Any:
        connection, process = self._due.popleft()
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            process.join()
            code = process.exitcode or 0
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise UserError(
                f"data.num_workers={len(self._processes)}: a worker process {how}, perhaps for want of memory"
            ) from error
        except BaseException:  # Ctrl-C can leave half of a result behind
            self.close()
            raise


def _stop(processes: list[BaseProcess], connections: list[Connection]) -> None:
    for process in processes:
        process.kill()
    for process, connection in zip(processes, connections, strict=True):
        process.join()
        process.close()
        connection.close()


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    for number in NOT_THEIRS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    torch.set_num_threads(1)
    places: Iterator[list[Tensor]] = cycle([[] for _ in range(AHEAD)])
    with contextlib.suppress(EOFError, OSError):  # nobody is there any more
        while True:
            task = connection.recv()
            try:
                connection.send(_shared(work(task), next(places)))
            except Exception:  # whatever it is: it is for the other process to tell
                connection.send(WorkerFailure(task, traceback.format_exc()))


def _shared(result: Any, place: list[Tensor]) -> Any:
    """A tuple of tensors in shared memory that is used again: new memory takes ten times as long as a copy."""
    if not (isinstance(result, tuple) and all(isinstance(part, Tensor) for part in result)):
        return result
    fits = len(place) == len(result) and all(
        there.dtype == part.dtype and there.shape[1:] == part.shape[1:] and len(there) >= len(part)
        for there, part in zip(place, result, strict=True)
    )
    if not fits:
        place[:] = [torch.empty_like(part).share_memory_() for part in result]  # type: ignore[no-untyped-call]
    return tuple(there[: len(part)].copy_(part) for there, part in zip(place, result, strict=True))
