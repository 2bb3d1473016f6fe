"""A command as `leyden.train`, whose jobs do nothing: what remains is Slurm's and the launcher's work."""

from hydra.core.hydra_config import HydraConfig

from leyden.run.command import hydra_command
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Result
from leyden.train import sweep


def task(cfg):
    choices = RunIdentity.of(cfg, HydraConfig.get().runtime.choices)
    run = Run(cfg.run_dir)
    with run.locked(choices, resume="auto", timeout_s=None):
        run.begin(choices, list(HydraConfig.get().overrides.task))
        run.end(Result("finished", (), {}, epochs=0, optimizer_steps=0, seconds=0, samples_per_second=0))


main = hydra_command(task, sweep=sweep, config_name="train")

if __name__ == "__main__":
    main()
