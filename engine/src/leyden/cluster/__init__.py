"""The places where a sweep's jobs run: this machine, a cluster with a scheduler such as Slurm, Ray."""

import pkgutil

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.scheduler import SCHEDULERS
from leyden.sweep.launcher import Launcher

LAUNCHERS = {  # by `cluster.launcher`
    "local": "leyden.sweep.launcher.LocalLauncher",
    "ray": "leyden.cluster.ray.RayLauncher",
    **dict.fromkeys(SCHEDULERS, "leyden.cluster.submit.QueueLauncher"),
}


def launcher(config: DictConfig, module: str) -> Launcher:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: There is no such launcher, or one of Hydra's plugins is chosen.
    """
    if (chosen := config.hydra.runtime.choices["hydra/launcher"]) != "basic":  # Hydra's default, which is not used
        raise UserError(f"hydra/launcher={chosen}: has no effect; cluster=NAME chooses where jobs run")
    if (name := config.cluster.get("launcher")) not in LAUNCHERS:
        raise UserError(f"cluster.launcher={name}: must be one of {', '.join(LAUNCHERS)}")
    made: Launcher = pkgutil.resolve_name(LAUNCHERS[name])(config, module)
    return made
