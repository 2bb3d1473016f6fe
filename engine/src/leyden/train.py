"""Train a network: one run, or a sweep with -m."""

from typing import TYPE_CHECKING

from leyden.base.errors import UserError, ending
from leyden.run.process import importing, is_main_process, num_processes

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Run the command."""
    with ending():
        from leyden.run.command import run_command

        run_command(train_job, sweep)


def sweep(config: "DictConfig", module: str) -> None:
    """Run a sweep on this machine or on a cluster; `main.task` of the module runs a job."""
    from leyden.queue.loop import launcher
    from leyden.sweep.grid import run_sweep
    from leyden.sweep.jobs import sweep_directory

    run_sweep(config, launcher(config, module, sweep_directory(config)))


def train_job(cfg: "DictConfig") -> None:
    """Train as configured, or print the result if the run directory already has one."""
    with importing():  # late, as `--help` and a mistyped key need none of it
        from hydra.core.hydra_config import HydraConfig

        from leyden.config.hydra import chosen_options, is_sweep, task_overrides
        from leyden.report.outcome import print_result
        from leyden.run.directory import Run
        from leyden.run.identity import RunIdentity
        from leyden.run.lock import LOCK_TIMEOUT_S
    hydra_cfg = HydraConfig.get()
    whole = HydraConfig.instance().cfg
    is_job = is_sweep(whole)
    overrides = task_overrides(hydra_cfg)
    if cfg.exact == "test" and not cfg.dry_run:
        from leyden.training.resumption import test_resume

        test_resume(cfg, overrides, is_job=is_job)
        return
    chosen = hydra_cfg.runtime.choices.get("sweep")
    if not is_job and chosen not in (None, "given"):
        raise UserError(f"sweep={chosen}: needs -m; without it there is one run")
    has_run_dir = any(override.startswith("run_dir=") for override in overrides)
    size = num_processes()
    is_own_command = hydra_cfg.job.config_name == "train"  # and not a config of `reproduce`
    if size > 1 and is_own_command and not (is_job or has_run_dir):
        raise UserError(
            f"run_dir: must be given, since each of the {size} processes would choose another one"
        )
    identity = RunIdentity.of(cfg, overrides, groups=chosen_options(hydra_cfg))
    run = Run(cfg.run_dir, trust=cfg.trust)
    # If two sweeps share a job, the second one waits for the first one's result.
    timeout_s = None if is_job else LOCK_TIMEOUT_S
    with run.locked(identity, resume=cfg.resume, timeout_s=timeout_s):
        result = run.result
        if result is None or not run.is_finished(identity):
            with importing():
                from leyden.assembly.build import dry_build
                from leyden.assembly.trainer import silence_lightning
                from leyden.training.start import start, wants_test
            test = wants_test(cfg, run, is_job=is_job)
            if cfg.dry_run:
                silence_lightning()
                dry_build(cfg, overrides=overrides, test=test)
                print("This would train. dry_run=true: nothing was trained.")
                return
            pictures = not is_job or cfg.sweep.pictures == "all"
            result = start(cfg, identity, run, test=test, pictures=pictures, overrides=overrides)
        elif not is_job and is_main_process():
            print("This run has finished already; nothing was trained.")
            run.warn_of_changed_code("this is the result of the code before")
            run.note(identity, overrides)
        if is_main_process():
            show_next_steps = is_own_command and not is_job
            print_result(run, result, show_next_steps=show_next_steps)


main.task = train_job  # type: ignore[attr-defined]  # a sweep's jobs call it

if __name__ == "__main__":
    main()
