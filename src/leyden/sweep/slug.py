"""The name of a job's directory."""

import hashlib
import re
from collections.abc import Sequence

from omegaconf import OmegaConf

from leyden.run import CONTROL, PLACE

MAX_LENGTH = 120


def slug(overrides: Sequence[str]) -> str:
    """A job's overrides as a readable file name, the same in whatever order they were given.

    Overrides that steer a start, and the choice of the sweep or cluster itself, are left out. There is no `=` in
    it, which would break Hydra's parser. A short hash is added where the name would be too long, or where
    characters that don't belong into a file name were replaced, so that no two jobs share one.

    Example:
        >>> slug(["seed=1", "optimizer.lr=0.01", "model.hidden_sizes=[512,256]"])
        'model.hidden_sizes-512-256_optimizer.lr-0.01_seed-1'
    """
    keys = {override: override.lstrip("+~").split("=")[0] for override in overrides}
    kept = sorted(o for o, key in keys.items() if key.split(".")[0] not in (*CONTROL, "sweep") and key not in PLACE)
    plain = "_".join(kept)
    name = re.sub(r"=\[(.*?)\]", lambda found: "=" + found[1].replace(",", "-"), plain).replace("=", "-")
    clean = re.sub(r"[^A-Za-z0-9._+-]", "-", name)
    if clean == name and len(clean) <= MAX_LENGTH:
        return clean or "defaults"
    return f"{clean[:MAX_LENGTH]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


# `${slug:${hydra.overrides.task}}` is the directory of a job.
OmegaConf.register_new_resolver("slug", slug, replace=True)
