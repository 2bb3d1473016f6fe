"""Worker processes that compute ahead: results are returned in order, and no worker outlives this process."""

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

AHEAD = 2  # tasks per worker that are in progress, or finished and not yet consumed
# A terminal or cluster sends these to all processes. Workers ignore them: the training process must save first.
IGNORED_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@dataclass(frozen=True)
class WorkerFailure:
    """Task that raised an exception in a worker, and the text of the traceback."""

    task: Any
    text: str


class Workers:
    """Pool of worker processes, started at once.

    The processes end with `close`, when this object is deleted, or when this process ends, for whatever reason.

    Args:
        work: Function called with each task; each process gets a copy of its current state.
        num_workers: Number of processes.

    Example:
        >>> workers = Workers(len, 2)
        >>> list(workers.map(["a", "bc", "def"]))
        [1, 2, 3]
        >>> workers.close()
    """

    def __init__(self, work: Callable[[Any], Any], num_workers: int) -> None:
        # A fork shares this process's memory until either writes to it, and needs no imports.
        # On other systems, fork is unsafe or missing.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._connections: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # Workers that return the next results, in order.
        self._pending: deque[tuple[Connection, BaseProcess]] = deque()
        for _ in range(num_workers):
            main_end, worker_end = context.Pipe()
            process = context.Process(target=_run_worker, args=(worker_end, work), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns about locks held by other threads; a worker needs none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            worker_end.close()  # otherwise the pipe would stay open when the process dies
            self._connections.append(main_end)
            self._processes.append(process)
        # Python itself would terminate its children by a signal that they ignore, and wait for them.
        self._finalize = Finalize(self, _stop, args=(self._processes, self._connections), exitpriority=0)

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the result of each task, or its `WorkerFailure`, in order; tasks are started ahead of time.

        A result that is a tuple of tensors is in shared memory that later results reuse: it is valid until the next
        one is requested.

        Raises:
            UserError: A process has died.
        """
        while self._pending:  # results of an iteration that was abandoned
            self._receive()
        workers = cycle(zip(self._connections, self._processes, strict=True))
        for task in tasks:
            worker = next(workers)
            with contextlib.suppress(OSError):  # a dead worker is reported when its result is due
                worker[0].send(task)
            self._pending.append(worker)
            if len(self._pending) == AHEAD * len(self._processes):
                yield self._receive()
        while self._pending:
            yield self._receive()

    @property
    def is_open(self) -> bool:
        """True if the processes are running."""
        return self._finalize.still_active()

    def close(self) -> None:
        """Kill the processes."""
        self._finalize()

    def _receive(self) -> Any:
        connection, process = self._pending.popleft()
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            process.join()
            code = process.exitcode or 0
            ending = f"was terminated by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise UserError(
                f"data.num_workers={len(self._processes)}: a worker process {ending}, perhaps out of memory"
            ) from error
        except BaseException:  # Ctrl-C can leave a partially read result in the pipe
            self.close()
            raise


def _stop(processes: list[BaseProcess], connections: list[Connection]) -> None:
    for process in processes:
        process.kill()
    for process, connection in zip(processes, connections, strict=True):
        process.join()
        process.close()
        connection.close()


def _run_worker(connection: Connection, work: Callable[[Any], Any]) -> None:
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    torch.set_num_threads(1)
    all_buffers: Iterator[list[Tensor]] = cycle([[] for _ in range(AHEAD)])
    with contextlib.suppress(EOFError, OSError):  # the main process has ended
        while True:
            task = connection.recv()
            try:
                connection.send(_to_shared_memory(work(task), next(all_buffers)))
            except Exception:  # of any type; the main process reports it
                connection.send(WorkerFailure(task, traceback.format_exc()))


def _to_shared_memory(result: Any, buffers: list[Tensor]) -> Any:
    """Return a tuple of tensors in reused shared memory; allocating new memory takes ten times as long."""
    if not (isinstance(result, tuple) and all(isinstance(part, Tensor) for part in result)):
        return result
    fits = len(buffers) == len(result) and all(
        there.dtype == part.dtype and there.shape[1:] == part.shape[1:] and len(there) >= len(part)
        for there, part in zip(buffers, result, strict=True)
    )
    if not fits:
        buffers[:] = [torch.empty_like(part).share_memory_() for part in result]  # type: ignore[no-untyped-call]
    return tuple(there[: len(part)].copy_(part) for there, part in zip(buffers, result, strict=True))
