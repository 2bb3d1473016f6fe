"""The name of a job's directory."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from leyden.config.mistakes import UserError
from leyden.config.schema import TrainConfig
from leyden.run.choices import steers
from leyden.run.fork import parent_groups, point

MAX_LENGTH = 120
ROOT_KEYS = "|".join(field.name for field in dataclasses.fields(TrainConfig))
# Overrides of which a name tells all: what is written between them and in a list can be taken apart again.
BETWEEN = re.compile(rf"_(?=[+~]*(?:{ROOT_KEYS})(?!\w))")
NUMBERS = re.compile(r"[0-9.]+(?:-[0-9.]+)+")  # of a list; a text that looks like it gets a hash
PLAIN = re.compile(
    rf"\+{{0,2}}(?:{ROOT_KEYS})(?:\.\w+)*=(?:\[[0-9.]+(?:,[0-9.]+)+\]|(?!{NUMBERS.pattern}$)[\w.+-]+)", re.ASCII
)
HASH = re.compile(r"-[0-9a-f]{8}$")


def slug(overrides: Sequence[str]) -> str:
    """A job's overrides as a readable file name, the same in whatever order they were given.

    Overrides that steer a start, and the choice of the sweep or cluster itself, are left out. There is no `=` in
    it, which would break Hydra's parser. A short hash is added where the name is too long, or where it would not
    tell all: no two jobs share one.

    Args:
        overrides: As they were typed.

    Example:
        >>> slug(["seed=1", "optimizer.lr=0.01", "model.hidden_sizes=[512,256]"])
        'model.hidden_sizes-512-256_optimizer.lr-0.01_seed-1'
        >>> slug(["model.hidden_sizes=[512]"])  # without a hash it would be that of 512, which is no list
        'model.hidden_sizes-512-27faaab5'
    """
    kept = _kept(overrides)
    parts = [_of_class(each) for each in _of_fork(kept)]
    plain, shown = "_".join(kept), "_".join(parts)
    name = re.sub(r"=\[(.*?)\]", lambda found: "=" + found[1].replace(",", "-"), shown).replace("=", "-")
    clean = re.sub(r"[^A-Za-z0-9._+-]", "-", name) or "defaults"
    can_be_split = (BETWEEN.split(plain) if plain else []) == kept
    if len(clean) <= MAX_LENGTH:
        tells_all = (
            parts == kept
            and all(map(PLAIN.fullmatch, kept))
            and kept == sorted(kept)
            and len(BETWEEN.split(name)) == max(1, len(kept))
        )
        if tells_all and can_be_split and not HASH.search(clean):
            return clean
    told = plain if can_be_split else json.dumps(kept)
    return f"{clean[:MAX_LENGTH]}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _kept(overrides: Sequence[str]) -> list[str]:
    """Those that tell jobs apart, in one order; where a key comes twice the last one holds, and the order stays."""
    pairs = [(override.lstrip("+~").split("=")[0], override) for override in overrides]
    kept = [(key, override) for key, override in pairs if not steers(key)]
    if len({key for key, _ in kept}) == len(kept):
        return sorted(override for _, override in kept)
    return [override for _, override in sorted(kept, key=lambda pair: pair[0])]


def _of_class(override: str) -> str:
    """What a name shows of an override: of one that names a class, `task._target_=mine.gan.GAN`, its last word, `task=GAN`."""
    key, _, value = override.partition("=")
    above, _, last = key.rpartition(".")
    if last != "_target_" or not all(word.isidentifier() for word in value.split(".")):
        return override
    return f"{above}={value.rpartition('.')[2]}"


def _of_fork(kept: Sequence[str]) -> list[str]:
    """What a name says of a fork: the folder of its parent, and what that was not given; a hash tells the rest."""
    fork = next((each for each in kept if each.startswith("fork=")), None)
    if fork is None:
        return list(kept)
    text = fork.partition("=")[2].strip("\"'")
    with contextlib.suppress(UserError):
        inherited = parent_groups(point(text)[0])
        rest = [each for each in kept if each is not fork and each not in inherited]
        return [f"fork={Path(text).name}", *rest]
    return list(kept)
