"""The places where a sweep's jobs run: this machine, Slurm, Ray."""

import pkgutil

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.sweep.launcher import Launcher

LAUNCHERS = {
    "local": "leyden.sweep.launcher.LocalLauncher",
    "slurm": "leyden.cluster.submit.SlurmLauncher",
    "ray": "leyden.cluster.ray.RayLauncher",
}


def launcher(config: DictConfig, module: str) -> Launcher:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: Hydra's own launcher or a plugin's is chosen.
    """
    chosen = config.hydra.runtime.choices["hydra/launcher"]
    if chosen not in LAUNCHERS:
        raise UserError(
            f"hydra/launcher={chosen}: must be local, slurm or ray, whose runs can be checked and resumed; set cluster=local"
        )
    made: Launcher = pkgutil.resolve_name(LAUNCHERS[chosen])(config, module)
    return made
