"""What bench/gpu.py sets beside Leyden: training by hand, of the same network by the same optimizer in the same batches.

    python engine/bench/gpu_loops.py experiment=cnn --graph
    python engine/bench/gpu_loops.py --way vmap --copies 1 2 4 8 16

Nothing is augmented, logged or validated while it trains. Where the recipe has a schedule, the learning rate is a tenth of its largest: a
CUDA graph keeps the numbers that it was captured with. With `--way` several copies of the network are trained, each on batches of its own.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import hydra
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.optim import Optimizer

from leyden import assembly
from leyden.assembly.optimizers import make_optimizer
from leyden.config.hydra import composing
from leyden.data.contract import Facts

NUM_WARM_UP = 3
WAYS = ("in turn", "streams", "vmap")


class Problem(NamedTuple):
    """A recipe and its data: inputs as floats, shape (M, C, H, W), and classes, shape (M,), on the device."""

    cfg: DictConfig
    facts: Facts
    inputs: Tensor
    targets: Tensor
    val_inputs: Tensor
    val_targets: Tensor

    def network(self, seed: int) -> nn.Module:
        """Return the recipe's network on the device, new."""
        torch.manual_seed(seed)
        return assembly.network(self.cfg, self.facts).to(self.inputs.device)

    def optimizer(self, named: Iterable[tuple[str, Tensor]], *, graph: bool) -> Optimizer:
        """Return the recipe's optimizer; for a graph with all of its state on the device."""
        optimizer = make_optimizer(self.cfg.optimizer)(named)
        for group in optimizer.param_groups:
            if self.cfg.scheduler:
                group["lr"] /= 10
            if graph and "capturable" in group:
                group["capturable"] = True
        return optimizer


def read(overrides: list[str], device: torch.device) -> Callable[[], Problem]:
    """Read a recipe's data; what is returned brings them to the device."""
    with composing():
        cfg = hydra.compose("train", overrides=overrides)
    data = assembly.datamodule(cfg)
    data.setup("fit")
    splits = [(data.held[True], data.indices[split]) for split in ("train", "val")]
    tensors = [part[indices] for held, indices in splits for part in (held.inputs, held.targets)]

    def bring() -> Problem:
        normalize = data.facts.normalize.on(device)
        inputs, targets, val_inputs, val_targets = (tensor.to(device) for tensor in tensors)
        return Problem(
            cfg, data.facts, normalize(inputs), targets, normalize(val_inputs), val_targets
        )

    return bring


def synchronize() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def captured(update: Callable[[], None], stream: "torch.cuda.Stream") -> Callable[[], None]:
    """Return a function that makes an update by replaying its kernels as a CUDA graph.

    The updates before the capture make the optimizer's state, and cuBLAS's workspace, which belongs to the stream: graphs that are
    replayed at once are to be captured in streams of their own.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(NUM_WARM_UP):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        update()
    return graph.replay


class Step:
    """An update on the samples that `index` names; a graph reads it where it was when the graph was captured.

    Args:
        update: Makes the update.
        index: What the update reads.
        stream: Where a graph of the update is captured; None for no graph.
    """

    def __init__(
        self, update: Callable[[], None], index: Tensor, stream: "torch.cuda.Stream | None"
    ) -> None:
        self.index, self.update = index, update  # a graph does not keep what it reads
        self.run = captured(update, stream) if stream else update

    def __call__(self, index: Tensor) -> None:
        """Make an update on other samples."""
        self.index.copy_(index)
        self.run()


def updating(
    problem: Problem, network: nn.Module, optimizer: Optimizer, index: Tensor
) -> Callable[[], None]:
    """Return a function that makes one update of a network."""

    def update() -> None:
        optimizer.zero_grad()
        logits_NK = network(problem.inputs.index_select(0, index))
        F.cross_entropy(logits_NK, problem.targets.index_select(0, index)).backward()
        optimizer.step()

    return update


def updating_all(
    problem: Problem, networks: list[nn.Module], index: Tensor, *, graph: bool
) -> tuple[Any, Any]:
    """Return a function that makes one update of all networks by vmap, and their stacked parameters.

    Args:
        problem: The recipe and its data.
        networks: Of one class, without buffers.
        index: Samples of each network, shape (networks, N).
        graph: True if the update will be captured.
    """
    skeleton = copy.deepcopy(networks[0]).to("meta")
    stacked = {name: each.detach() for name, each in stack_module_state(networks)[0].items()}
    optimizer = problem.optimizer(stacked.items(), graph=graph)

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(skeleton, parameters, (inputs,)), targets)

    gradients = vmap(grad(loss))

    def update() -> None:
        found = gradients(stacked, problem.inputs[index], problem.targets[index])
        for name, parameter in stacked.items():
            parameter.grad = found[name]
        optimizer.step()

    return update, stacked


def fit(
    bring: Callable[[], Problem], *, graph: bool, num_epochs: int, num_batches: int | None
) -> dict[str, float]:
    """Train; the clock begins with the data on the host, as Leyden's does, and the first epoch is the warm-up."""
    start = time.perf_counter()
    problem = bring()
    network, size = problem.network(0), problem.cfg.data.batch_size
    optimizer = problem.optimizer(network.named_parameters(), graph=graph)
    stream = torch.cuda.Stream() if graph else None
    steps: dict[int, Step] = {}  # by the size of the batch: the last one of an epoch is smaller
    ends, num_samples = [], 0
    for _ in range(num_epochs):
        order = torch.randperm(len(problem.inputs), device=problem.inputs.device)
        batches = order.split(size)[:num_batches]
        for index in batches:
            if len(index) not in steps:
                own = index.clone()
                steps[len(index)] = Step(updating(problem, network, optimizer, own), own, stream)
            steps[len(index)](index)
        synchronize()
        ends.append(time.perf_counter())
        num_samples = sum(map(len, batches))
    epoch_s = statistics.median(end - begin for begin, end in pairwise(ends))
    network.eval()
    with torch.no_grad():
        correct = network(problem.val_inputs).argmax(1) == problem.val_targets
    found = {"fit_s": ends[-1] - start, "epoch_s": epoch_s, "samples_s": num_samples / epoch_s}
    return {**found, "val_acc": correct.float().mean().item()}


def prepare(
    problem: Problem, way: str, num: int, *, graph: bool
) -> tuple[Callable[[Tensor], None], list[Any]]:
    """Return a function that trains copies of the network, and the parameters of each.

    The function takes the samples of each copy and step, shape (copies, steps, N).
    """
    networks = [problem.network(seed) for seed in range(num)]
    num_streams = {"in turn": int(graph), "streams": num, "vmap": int(graph)}[way]
    streams = [torch.cuda.Stream() for _ in range(num_streams)]
    size = problem.cfg.data.batch_size
    first = torch.arange(size, device=problem.inputs.device).repeat(num, 1)
    if way == "vmap":
        update, stacked = updating_all(problem, networks, first, graph=graph)
        step = Step(update, first, streams[0] if graph else None)

        def at_once(orders: Tensor) -> None:
            for index in orders.unbind(1):
                step(index)

        return at_once, [
            {name: each[number] for name, each in stacked.items()} for number in range(num)
        ]
    steps = []
    for number, (network, index) in enumerate(zip(networks, first.unbind(0), strict=True)):
        optimizer = problem.optimizer(network.named_parameters(), graph=graph)
        stream = streams[number % num_streams] if graph else None
        steps.append(Step(updating(problem, network, optimizer, index), index, stream))
    parameters = [dict(network.named_parameters()) for network in networks]

    def in_turn(orders: Tensor) -> None:
        for step, order in zip(steps, orders.unbind(0), strict=True):
            for index in order.unbind(0):
                step(index)

    def in_streams(orders: Tensor) -> None:
        for indices in orders.unbind(1):
            for step, stream, index in zip(steps, streams, indices.unbind(0), strict=True):
                with torch.cuda.stream(stream):
                    step(index)

    return in_streams if way == "streams" else in_turn, parameters


def many(
    problem: Problem, way: str, num: int, *, graph: bool, num_steps: int, wait: bool
) -> dict[str, Any]:
    """Time the training of copies of the network; `start` and `end` are of a clock that processes share."""
    run, _ = prepare(problem, way, num, graph=graph)
    device, size = problem.inputs.device, problem.cfg.data.batch_size
    num_used = num_steps * size
    orders = [torch.randperm(len(problem.inputs), device=device)[:num_used] for _ in range(num)]
    orders_CSN = torch.stack(orders).view(num, num_steps, size)
    synchronize()
    run(orders_CSN[:, :NUM_WARM_UP])
    synchronize()
    if wait:
        print("ready", flush=True)
        sys.stdin.readline()
    start = time.monotonic()
    run(orders_CSN)
    synchronize()
    end = time.monotonic()
    return {
        "start": start,
        "end": end,
        "samples": num * num_used,
        "samples_s": num * num_used / (end - start),
    }


def main() -> None:
    """Train as told, and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="of the configuration, such as experiment=cnn")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--graph", action="store_true", help="as a CUDA graph")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, help="batches of an epoch; all of them without it")
    parser.add_argument("--way", choices=WAYS, help="train copies of the network so")
    parser.add_argument("--copies", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=400, help="timed updates of each copy")
    parser.add_argument(
        "--wait", action="store_true", help="print `ready`, and begin when a line comes"
    )
    told = parser.parse_args()
    bring = read(told.overrides, torch.device(told.device))
    found: dict[Any, Any] = {}
    if told.way is None:
        found = fit(bring, graph=told.graph, num_epochs=told.epochs, num_batches=told.batches)
    else:
        problem = bring()
        for num in told.copies:
            try:
                given = {"graph": told.graph, "num_steps": told.steps, "wait": told.wait}
                found[num] = many(problem, told.way, num, **given)
            except RuntimeError as error:  # out of memory, or no such operation
                found[num] = {"failed": f"failed: {type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
