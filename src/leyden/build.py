"""From configuration to objects: the only place that instantiates."""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from hydra.errors import HydraException
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar, Timer
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.callbacks.checkpoint import RunCheckpoint, SafeCheckpointIO
from leyden.callbacks.rank_state import RankState
from leyden.classifier import Classifier
from leyden.cluster.preemption import Preemption
from leyden.config import UserError, choice, objectives
from leyden.data.datamodule import ImageDataModule
from leyden.data.facts import Facts
from leyden.run import Run
from leyden.stored import stored_config


def datamodule(cfg: DictConfig, world_size: int) -> ImageDataModule:
    """The data of a run, fetched and read as far as training needs it."""
    data: ImageDataModule = _instantiate(cfg.data, "data")
    with _user_errors("data"):
        data.setup("fit")
        data.check_world_size(world_size)
    return data


def check(cfg: DictConfig, facts: dict[str, Any]) -> None:
    """Find what is wrong with a configuration, short of training; `facts` keeps what was read for the next call.

    Raises:
        UserError: Names the part and the mistake.
    """
    devices = cfg.trainer.devices if isinstance(cfg.trainer.devices, int) else 1  # else known in the run
    world_size = devices * cfg.trainer.num_nodes
    # Batches and splits of other sizes and seeds need no reading anew.
    key = str([cfg.data[name] for name in ("dataset", "root", "val_size", "normalize")])
    data = _instantiate(cfg.data, "data")
    if key not in facts:
        facts[key] = datamodule(cfg, world_size)
    facts[key].batch_size = data.batch_size
    with _user_errors("data"):
        facts[key].check_world_size(world_size)
    with torch.device("meta"):  # without memory or random numbers
        classifier(cfg, facts[key])
    for name, node in cfg.callbacks.items():
        _instantiate(node, f"callbacks.{name}")
    for name, node in cfg.logger.items():
        _check_extra(node, f"logger.{name}")
        _check_keys(node, f"logger.{name}")
    choice(cfg, "trainer.accelerator", "auto", "cpu", "gpu", "cuda", "mps", "tpu")
    # The machine that checks need not be the one that trains: on a CPU, as one process.
    alone = cfg.trainer.copy()
    alone.update({"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})
    _instantiate(alone, "trainer", logger=False, enable_progress_bar=False)


def network(cfg: DictConfig, facts: Facts) -> torch.nn.Module:
    """The network that `cfg.model` describes, for data with these facts.

    It is compiled in place, so that its keys in a checkpoint do not depend on `cfg.compile`.
    """
    module: torch.nn.Module = _instantiate(
        cfg.model, "model", input_shape=facts.input_shape, num_classes=facts.num_classes
    )
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"model: makes a {type(module).__name__}; must be a torch.nn.Module")
    # Convolutions are faster so, on a CPU and on a GPU in half precision; other layers don't mind.
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _check_output(module, facts)
    if cfg.compile:
        module.compile()
    return module


def _check_output(module: torch.nn.Module, facts: Facts) -> None:
    """Make sure that a network takes the images and gives a logit a class, before hours of something else."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    images_NCHW = torch.zeros(2, *facts.input_shape, device=device)
    module.eval()  # draws no random numbers, and leaves running means alone
    with torch.no_grad(), _user_errors(f"model, given images of shape {tuple(images_NCHW.shape)}"):
        try:
            logits_NK = module(images_NCHW)
        except NotImplementedError:
            if device.type == "meta":  # it does what can't be foreseen: the run itself checks it again
                return
            raise
    module.train()
    expected = (2, facts.num_classes)
    found = tuple(logits_NK.shape) if isinstance(logits_NK, torch.Tensor) else type(logits_NK).__name__
    if found != expected:
        raise UserError(
            f"model: gives {found} for images of shape {tuple(images_NCHW.shape)}; must be logits of shape "
            f"{expected}, one a class"
        )


def classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network with its loss, metrics and optimizer.

    Raises:
        UserError: A part of the configuration is wrong, or the objective is nothing that is logged.
    """
    optimizer = _instantiate(cfg.optimizer, "optimizer")
    scheduler = functools.partial(_scheduler, cfg.scheduler, num_steps(cfg, data)) if cfg.scheduler else None
    module = Classifier(
        network=network(cfg, data.facts),
        optimizer=optimizer,
        scheduler=scheduler,
        label_smoothing=cfg.label_smoothing,
    )
    with _user_errors("optimizer", cfg.optimizer):
        made = optimizer(module.network.parameters())  # a value that it refuses shows now, not in training
    if scheduler:
        scheduler(made)
    allowed = {name for name in module.metric_names if name.split("/")[0] in data.splits}
    for objective in objectives(cfg.objective):
        if objective["metric"] not in allowed:
            why = "; data.val_size=0 leaves no validation split" if "val" not in data.splits else ""
            raise UserError(
                f"objective.metric={objective['metric']}: must be one of {', '.join(sorted(allowed))}{why}\n"
                "objective=null selects nothing and keeps the last epoch"
            )
        allowed.add("num_parameters")  # the first one selects among epochs, which have it in common
    return module


def num_steps(cfg: DictConfig, data: ImageDataModule) -> int:
    """Optimizer steps of a run of so many epochs."""
    # The trainer could tell it, but when asked it sets up its loaders, and forgets to put them back to where a run
    # goes on within an epoch.
    num_batches, limit = len(data.train_dataloader()), cfg.trainer.limit_train_batches
    num_batches = int(num_batches * limit) if isinstance(limit, float) else min(num_batches, limit)
    return int(math.ceil(num_batches / cfg.trainer.accumulate_grad_batches) * cfg.trainer.max_epochs)


def _scheduler(node: DictConfig, num_steps: int, optimizer: Optimizer) -> LRScheduler:
    """The schedule that a node describes; its value that is missing there is the number of steps."""
    given = {str(key): num_steps for key in node if OmegaConf.is_missing(node, key)}
    schedule: LRScheduler = _instantiate(node, "scheduler", optimizer=optimizer, **given)
    return schedule


def trainer(cfg: DictConfig, run: Run, checkpoint: Path | None) -> L.Trainer:
    """The trainer with its callbacks and loggers, all of which write to the run directory.

    Args:
        cfg: The configuration of the run.
        run: Its directory.
        checkpoint: Which the run goes on from; logged points from its step on are dropped.
    """
    with _user_errors(str(checkpoint)):
        step = SafeCheckpointIO().load_checkpoint(checkpoint)["global_step"] if checkpoint else 0
    callbacks = [_instantiate(node, f"callbacks.{name}") for name, node in cfg.callbacks.items()]
    keeping = [callback for callback in callbacks if isinstance(callback, RunCheckpoint)]
    if len(keeping) != 1:
        raise UserError(
            "callbacks: must have one RunCheckpoint, as callbacks.checkpoint is, else there is no result"
        )
    loggers = []
    for name, node in cfg.logger.items():
        given = {"purge_step": step} if OmegaConf.is_missing(node, "purge_step") else {}
        _check_extra(node, f"logger.{name}")
        loggers.append(_instantiate(node, f"logger.{name}", save_dir=str(run.directory), **given))
    return _trainer(
        cfg,
        callbacks=[*callbacks, Timer(), RankState(), Preemption(keeping[0].save_last)],
        logger=loggers,
        # Without one in the configuration there is none of Lightning's either.
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=str(run.directory),
    )


def evaluator(cfg: DictConfig, accelerator: str) -> L.Trainer:
    """A trainer that evaluates on one device, and writes nothing."""
    cfg.trainer.update({"accelerator": accelerator, "devices": 1, "num_nodes": 1, "strategy": "auto"})
    return _trainer(cfg, callbacks=[], logger=False, enable_progress_bar=False)


def _trainer(cfg: DictConfig, **kwargs: Any) -> L.Trainer:
    plugins: list[Any] = [SafeCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # that is `Preemption`'s
    made: L.Trainer = _instantiate(
        cfg.trainer,
        "trainer",
        plugins=plugins,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the loader divides its batches itself
        **kwargs,
    )
    # Deterministic mode would also fill all new memory: no need here, and it costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return made


def trained_network(run: Run, checkpoint: Path) -> tuple[torch.nn.Module, Facts]:
    """The network of a run in evaluation mode, on the CPU, and the facts of its data, which need not be there.

    Raises:
        UserError: The configuration or the checkpoint is refused, or they don't fit each other.
    """
    cfg = stored_config(run)
    cfg.compile = False
    with _user_errors(str(checkpoint)):
        content = SafeCheckpointIO().load_checkpoint(checkpoint)
        facts = Facts.from_state(content[cfg.data._target_.rpartition(".")[2]])
        module = network(cfg, facts)
        weights = content["state_dict"]
        module.load_state_dict({key.removeprefix("network."): weights[key] for key in weights})
    return module.eval(), facts


def trained_data(run: Run, facts: Facts, root: str | None, world_size: int) -> ImageDataModule:
    """The data set that a run was trained on, from `root` if it does not lie where it was then.

    Raises:
        UserError: It can't be had, or is another one than `facts` tell of.
    """
    cfg = stored_config(run)
    cfg.data.download = True  # a job of a cluster had it off
    if root:
        cfg.data.root = root
    data = datamodule(cfg, world_size)
    if data.facts != facts:
        raise UserError(f"data.root={cfg.data.root}: not the data set that {run.directory} was trained on")
    return data


def quiet() -> None:
    """Leave out what Lightning tells at each start, and warnings that leave a user nothing to do."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # no validation split
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on the login node of a cluster
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # means of epochs are logged anyway


def _instantiate(node: DictConfig, key: str, **given: Any) -> Any:
    """Instantiate a node, with values that the program gives and the configuration must not."""
    plain: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    for name in given:
        if plain.pop(name, "???") != "???":
            raise UserError(f"{key}.{name}={node[name]}: is given by the program, it can't be set")
    with _user_errors(key, node):
        if not given:
            return hydra.utils.instantiate(plain, _convert_="all")
        return hydra.utils.instantiate(plain, _convert_="all", _partial_=True)(**given)


def _check_extra(node: DictConfig, key: str) -> None:
    """Make sure that the package is installed that an optional part of Leyden needs."""
    with _user_errors(key, node):
        package = getattr(hydra.utils.get_object(node["_target_"]), "needs", None)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"{key}: {package} is not installed; pip install -e '.[{package}]' installs it")


def _check_keys(node: DictConfig, key: str) -> None:
    """Make sure that a target takes its keys, without making anything."""
    with _user_errors(key, node):
        made = hydra.utils.get_object(node["_target_"])
        keys = map(str, node.keys())  # missing values, too
        inspect.signature(made).bind_partial(**dict.fromkeys(name for name in keys if not name.startswith("_")))


@contextlib.contextmanager
def _user_errors(key: str, node: DictConfig | None = None) -> Iterator[None]:
    """Name the part of the configuration to which an error belongs."""
    try:
        yield
    except (
        HydraException,
        MisconfigurationException,
        ValueError,
        TypeError,
        OSError,
        RuntimeError,
        KeyError,
    ) as error:
        cause: BaseException = error
        while isinstance(cause, HydraException) and cause.__cause__:
            cause = cause.__cause__
        raise UserError(f"{key}: {' '.join(str(cause).split())}{_meant(cause, node)}") from error


def _meant(error: BaseException, node: DictConfig | None) -> str:
    """A guess at an argument that was misspelled."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not wrong or node is None:
        return ""
    known = list(inspect.signature(hydra.utils.get_object(node["_target_"])).parameters)
    close = difflib.get_close_matches(wrong[1], known, 1)
    return f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(known)}"
