"""Virtual ranks: what processes of DDP would do, done by fewer of them, one after another.

Each virtual rank has random states, metrics, logged values and attributes of its own, which are
exchanged when another one has its turn. Its code runs in a thread of its own, so that it can wait
for a value of the others in the middle, as a process waits in a collective call. Only one of them
runs at any time.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from leyden.exact import ExactError
from leyden.exact.loaders import gather_from_processes

_T = TypeVar("_T")
NOT_ALL_WAIT = (
    "some virtual ranks wait for a value of all of them, as by sync_dist=True, "
    "and others don't, or "
    "have no batch: log it in each of them, and per epoch"
)


class _Turn(threading.Thread):
    """The thread of a virtual rank; it runs while its `step` waits, and no longer."""

    def __init__(self) -> None:
        super().__init__(name="virtual rank", daemon=True)
        self._mine = threading.Semaphore(0)
        self._others = threading.Semaphore(0)
        self._call: Callable[[], Any] | None = None
        self.value: Any = None  # what it waits with, or has returned
        self.error: BaseException | None = None
        self.is_over = True
        self.start()

    def begin(self, call: Callable[[], Any]) -> None:
        """Take a call, which `step` begins."""
        self._call = _as_here(call)
        self.error = None
        self.is_over = False

    def end(self) -> None:
        """End the thread, unless it waits, as after an error of another one."""
        if self.is_over:
            self._call = None
            self._mine.release()

    def step(self, value: Any = None) -> None:
        """Run until the call waits for the others, or is over.

        Args:
            value: What it has waited for.
        """
        self.value = value
        self._mine.release()
        self._others.acquire()

    def wait(self, value: Any) -> Any:
        """Wait for the others, in this thread, with a value for them; return what `step` gets."""
        self.value = value
        self._others.release()
        self._mine.acquire()
        return self.value

    def run(self) -> None:
        """Run one call after another."""
        while True:
            self._mine.acquire()
            if self._call is None:
                return
            try:
                self.value = self._call()
            except BaseException as error:
                self.error = error
            self.is_over = True
            self._others.release()


def _as_here(call: Callable[[], _T]) -> Callable[[], _T]:
    """Return a call that runs in another thread with the modes that PyTorch has in this one."""
    device = "cpu"
    gpu: Any = contextlib.nullcontext()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        device = "cuda"
        gpu = torch.cuda.device(torch.cuda.current_device())
    has_grad = torch.is_grad_enabled()
    is_inference = torch.is_inference_mode_enabled()
    is_cast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)

    def called() -> _T:
        with contextlib.ExitStack() as modes:
            modes.enter_context(gpu)
            modes.enter_context(torch.inference_mode(is_inference))
            modes.enter_context(torch.set_grad_enabled(has_grad))
            if is_cast:
                modes.enter_context(torch.autocast(device, dtype))
            return call()

    return called


class Ranks:
    """The virtual ranks of this process, which take turns.

    Args:
        own: The virtual ranks of this process.
        total: Number of all virtual ranks.
        switch: Loads what a virtual rank has of its own; None: what belongs to no rank.
    """

    def __init__(self, own: range, total: int, switch: Callable[[int | None], None]) -> None:
        self.own = own
        self.first = own[0]
        self.total = total
        self.current: int | None = None  # the one that has its turn
        self.all_take_part = True  # otherwise some virtual ranks have no batch
        self._switch = switch
        self._turns: dict[int, _Turn] = {}

    @contextlib.contextmanager
    def turn_of(self, rank: int) -> Iterator[None]:
        """Context of a virtual rank, in which it waits for no other one."""
        if self.current is not None:
            yield
            return
        self._switch(rank)
        self.current = rank
        try:
            yield
        finally:
            self.current = None
            self._switch(None)

    def run(self, call: Callable[[int], _T]) -> dict[int, _T]:
        """Call a function with each virtual rank of this process, and return what it returns.

        Within a turn, it is called for the rank that has it.
        """
        if self.current is not None:
            return {self.current: call(self.current)}
        if len(self.own) == 1:
            with self.turn_of(self.first):
                return {self.first: call(self.first)}
        for rank in self.own:
            if rank not in self._turns:
                self._turns[rank] = _Turn()
            self._turns[rank].begin(functools.partial(call, rank))
        try:
            self._take_turns()
        finally:
            self.current = None
            self._switch(None)
        return {rank: self._turns[rank].value for rank in self.own}

    def _take_turns(self) -> None:
        given: list[Any] | None = None
        while True:
            for rank in self.own:
                self._switch(rank)
                self.current = rank
                turn = self._turns[rank]
                turn.step(given)
                if turn.error is not None:
                    raise turn.error
            are_over = {self._turns[rank].is_over for rank in self.own}
            if are_over == {True}:
                return
            if len(are_over) > 1:
                raise ExactError(NOT_ALL_WAIT)
            self.current = None
            given = self._gather([self._turns[rank].value for rank in self.own])

    def meet(self, value: Any) -> list[Any]:
        """Return the values of all virtual ranks, by rank, in a turn; all must call this."""
        assert self.current is not None
        if not self.all_take_part:
            raise ExactError(NOT_ALL_WAIT)
        turn = self._turns.get(self.current)
        if turn is threading.current_thread():
            found: list[Any] = turn.wait(value)
            return found
        if len(self.own) > 1:
            raise ExactError("a virtual rank can't wait here for a value of the others")
        return self._gather([value])

    def close(self) -> None:
        """End the threads."""
        for turn in self._turns.values():
            turn.end()

    def _gather(self, values: list[Any]) -> list[Any]:
        found: list[Any] = []
        for each in gather_from_processes(values):
            found += each
        return found
