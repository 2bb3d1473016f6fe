"""What a fork may have otherwise than its parent."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.assembly.resume import num_epochs
from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.config.mistakes import UserError
from leyden.config.values import flatten
from leyden.run.choices import deciding
from leyden.run.contents import RunContents

# What has its state in a checkpoint, which is gone on with as it is.
FIXED = ("init_from", "init_skip", "freeze", "optimizer._target_", "callbacks.")

# What would put samples that the parent was trained on into the validation split.
OF_SPLIT = ("data.val_size", "data.num_folds", "data.fold", "data.split_seed")
# What decides on the batches of an epoch, and which of them make a step.
OF_EPOCH = ("seed", "data.", "trainer.limit_train_batches", "trainer.accumulate_grad_batches")


def check_changes(cfg: DictConfig, parent: RunContents, path: Path, content: dict[str, Any]) -> None:
    """Make sure that all that is asked for otherwise than in the parent takes effect.

    Raises:
        UserError: It would not.
    """
    where = f"fork: {path}"
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    there, here = (deciding(dict(flatten(each))) for each in (parent.config, config))
    changed = [key for key in {**there, **here} if key != "fork" and repr(there.get(key)) != repr(here.get(key))]
    state = content["callbacks"]
    for key in changed:
        was_averaged = "averaging" in f"{key}{here.get(key)}"
        if key.startswith(FIXED) and (key in there or not key.startswith("callbacks.") or was_averaged):
            raise UserError(
                f"{where}: {key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here: its state comes from the parent; "
                "init_from takes the weights alone"
            )
    if cut := [key for key in changed if key in OF_SPLIT]:
        key = cut[0]
        raise UserError(
            f"{where}: {key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here: the fork would be validated on what "
            "its parent was trained on; leave it as it is there"
        )
    within = num_epochs(content) is None
    if within and (odd := [key for key in changed if key.startswith(OF_EPOCH)]):
        raise UserError(f"{where}: {odd[0]} can't be changed within an epoch; fork at the end of one")
    if state[RunCheckpoint.state_key]["is_over"]:
        raise UserError(f"{where}: that run had stopped itself there; fork at an earlier state")
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    for key, has, unit in (("max_epochs", epochs, "epochs"), ("max_steps", content["global_step"], "steps")):
        most = cfg.trainer.get(key)
        if most not in (None, -1) and has >= most:
            raise UserError(f"{where}: has {has} {unit}, and trainer.{key}={most} leaves none to train")
