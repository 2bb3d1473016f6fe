"""How samples are divided: among splits, and among processes."""

import torch
from torch import Tensor


def split(
    num_samples: int,
    *,
    val_size: int,
    seed: int,
    num_folds: int | None = None,
    fold: int = 0,
    overlap: int | None = None,
) -> dict[str, Tensor]:
    """Indices of each split, shape (N,), which depend on the arguments alone; no `val` of size 0.

    Args:
        num_samples: Of both splits together.
        val_size: Samples of the validation split.
        seed: Of the permutation that the validation split is cut from.
        num_folds: Number of parts of which one is the validation split, instead of `val_size`; None: not.
        fold: Which one of them, from 0.
        overlap: Where neighbours are alike, as windows of one text: the validation split is cut from the samples as they
            lie, the last ones, and so many on each side of it that share something with it are left out. None: a sample
            has nothing to do with its neighbours.

    Raises:
        ValueError: Nothing would be left to train on, or there is no such fold.

    Example:
        >>> split(6, val_size=0, seed=0, num_folds=3, fold=1, overlap=0)
        {'val': tensor([2, 3]), 'train': tensor([0, 1, 4, 5])}
    """
    if overlap is None:
        order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))
    else:
        order = torch.arange(num_samples)
    if num_folds is not None:
        if not 2 <= num_folds <= num_samples or not 0 <= fold < num_folds:
            raise ValueError(
                f"num_folds={num_folds}, fold={fold}: must be 2 to {num_samples} folds, and one from 0 to num_folds - 1"
            )
        begin, end = (num_samples * part // num_folds for part in (fold, fold + 1))
    elif val_size >= num_samples:
        raise ValueError(f"val_size={val_size}: must be smaller than the training set of {num_samples} samples")
    elif not val_size:
        return {"train": torch.arange(num_samples)}
    else:
        begin, end = (0, val_size) if overlap is None else (num_samples - val_size, num_samples)
    before, after = order[: max(0, begin - (overlap or 0))], order[end + (overlap or 0) :]
    if not len(before) + len(after):
        given = f"val_size={val_size}" if num_folds is None else f"num_folds={num_folds}"
        raise ValueError(f"{given}: leaves nothing to train on, of {num_samples} samples that overlap")
    return {"val": order[begin:end], "train": torch.cat([before, after])}


def check_world_size(num_samples: int, batch_size: int, world_size: int) -> None:
    """Make sure that each of `world_size` processes gets a part of every training batch.

    Raises:
        ValueError: One would get nothing of the last batch.
    """
    smallest = min(num_samples % batch_size or batch_size, num_samples)
    if smallest < world_size:
        raise ValueError(
            f"batch_size={batch_size}: {num_samples} training samples leave a batch of {smallest}, too few "
            f"for {world_size} processes; choose another batch_size or val_size"
        )
