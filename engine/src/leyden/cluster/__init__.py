"""The places where a sweep's jobs run: this machine, Slurm, Ray."""

from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.sweep.launcher import Launcher, LocalLauncher


def launcher(config: DictConfig, module: str) -> Launcher:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: Hydra's own launcher or a plugin's is chosen.
    """
    from leyden.cluster.ray import RayLauncher
    from leyden.cluster.submit import SlurmLauncher

    match config.hydra.runtime.choices["hydra/launcher"]:
        case "local":
            return LocalLauncher(config, module)
        case "slurm":
            return SlurmLauncher(config, module)
        case "ray":
            return RayLauncher(config, module)
        case other:
            raise UserError(
                f"hydra/launcher={other}: must be local, slurm or ray, whose runs can be checked and resumed; set cluster=local, "
                "cluster=slurm or cluster=ray"
            )
