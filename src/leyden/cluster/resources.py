"""What is asked of a cluster, checked before anything is submitted."""

from omegaconf import DictConfig, ListConfig

from leyden.config.mistakes import UserError

RESOURCES = (
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "mem_gb",
    "time_min",
    "signal_delay_s",
    "num_trials_at_once",
)


def check_resources(cluster: DictConfig, trainer: DictConfig) -> None:
    """Make sure that the resources make sense, and that the trainer uses what is asked for.

    Raises:
        UserError: They don't.
    """
    least = {"gpus_per_task": 0, "max_requeues": 0}
    least |= dict.fromkeys(RESOURCES, 1)
    for key, smallest in least.items():
        if type(cluster[key]) is not int or cluster[key] < smallest:
            raise UserError(f"cluster.{key}={cluster[key]}: must be a whole number, {smallest} or larger")
    for key in ("wait", "snapshot", "dry_run"):
        if type(cluster[key]) is not bool:
            raise UserError(f"cluster.{key}={cluster[key]}: must be true or false")
    if not isinstance(cluster.setup, ListConfig):
        raise UserError(f"cluster.setup={cluster.setup}: must be a list of lines, as ['module load cuda']")
    if not isinstance(cluster.options, DictConfig):
        raise UserError(f"cluster.options={cluster.options}: each is set by +cluster.options.KEY=VALUE")
    if cluster.signal_delay_s >= 60 * cluster.time_min:
        raise UserError(f"cluster.signal_delay_s={cluster.signal_delay_s}: must be less than cluster.time_min")
    if cluster.gpus_per_task > 1:
        raise UserError(f"cluster.gpus_per_task={cluster.gpus_per_task}: a process trains on one device")
    for key, source in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
        if trainer[key] != cluster[source]:
            raise UserError(
                f"trainer.{key}={trainer[key]}: follows from cluster.{source}={cluster[source]}; set that"
            )
    if trainer.accelerator == "gpu" and not cluster.gpus_per_task:
        raise UserError("trainer.accelerator=gpu: cluster.gpus_per_task=0 asks for no GPU")
    if trainer.accelerator == "auto" and cluster.gpus_per_task:
        raise UserError(
            f"trainer.accelerator=auto: with cluster.gpus_per_task={cluster.gpus_per_task} choose gpu: auto would train on the "
            "processor of a node whose GPU can't be used"
        )
    if trainer.accelerator == "cpu" and cluster.gpus_per_task:
        raise UserError(f"trainer.accelerator=cpu: cluster.gpus_per_task={cluster.gpus_per_task} asks for GPUs")
