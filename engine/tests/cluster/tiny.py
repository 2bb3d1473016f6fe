"""A command as `leyden.train`, whose jobs do nothing: what remains is Slurm's and the launcher's work."""

import hydra
from hydra.core.hydra_config import HydraConfig

from leyden import train  # noqa: F401 - registers the resolver `slug`
from leyden.config.hydra import VERSION_BASE
from leyden.config.paths import CONF, prepare_process
from leyden.config.schema import register_resolvers
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Result


def task(cfg):
    runtime = HydraConfig.get().runtime
    choices = RunIdentity.of(cfg, runtime.choices, runtime.output_dir)
    run = Run(cfg.run_dir)
    with run.locked(choices, resume="auto", timeout_s=None):
        run.begin(choices, list(HydraConfig.get().overrides.task))
        run.end(Result("finished", (), {}, epochs=0, optimizer_steps=0, seconds=0, samples_per_second=0))


main = hydra.main(config_path=str(CONF), config_name="train", version_base=VERSION_BASE)(task)
main.task = task

if __name__ == "__main__":
    prepare_process()
    register_resolvers()
    main()
