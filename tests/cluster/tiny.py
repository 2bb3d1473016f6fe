"""A command as `leyden.train`, whose jobs do nothing: what remains is Slurm's and the launcher's work."""

import hydra
from hydra.core.hydra_config import HydraConfig

from leyden.config import CONF, prepare
from leyden.run import Run
from leyden.sweep import slug  # noqa: F401 - names the directories of jobs


def task(cfg):
    config = prepare(cfg, HydraConfig.get().runtime.output_dir)
    run = Run(cfg.run_dir)
    with run.locked(config, resume="auto", timeout_s=-1):
        run.begin(config, list(HydraConfig.get().overrides.task))
        run.end({"status": "finished", "objective": None, "epochs": 0, "seconds": 0.0, "error": None})


main = hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(task)
main.task = task

if __name__ == "__main__":
    main()
