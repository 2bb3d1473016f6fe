"""The rows and columns of the league's table."""

from dataclasses import dataclass

SCENARIOS = {
    "shuffle": "shuffled data",
    "workers": "noise in two workers",
    "numpy": "noise by NumPy",
    "random": "noise by random",
    "dropout": "dropout",
    "stream": "a stream",
    "accumulate": "accumulated gradients",
    "plateau": "plateau schedule",
    "ema": "average of weights",
    "early": "early stopping",
    "ddp": "DDP of two",
    "sigterm": "SIGTERM",
    "saving": "killed while saving",
}
NOT_KILLED = ("sigterm", "saving")  # disturbed in another way


@dataclass(frozen=True)
class Framework:
    """A row of the table.

    Args:
        name: Its name on the page.
        script: Its script in `frameworks/`, with options.
        packages: Its distributions.
        every: How often its script saves.
        promise: The page of its documentation that says how to resume.
        quote: What is written there.
    """

    name: str
    script: tuple[str, ...]
    packages: tuple[str, ...]
    every: str
    promise: str
    quote: str

    @property
    def imports(self):
        """The modules that a warm process imports."""
        return _IMPORTS[self.packages[0]]


_IMPORTS = {
    "lightning": ("module", "leyden.train", "leyden.training.start", "leyden.exact.fit"),
    "transformers": ("transformers.trainer",),
    "accelerate": ("accelerate",),
    "mosaicml": ("composer",),
    "keras": ("keras",),
    "pytorch-ignite": ("ignite.engine", "ignite.handlers"),
    "fastai": ("fastai.learner", "fastai.callback.all"),
    "skorch": ("skorch",),
    "torchdata": ("torchdata.stateful_dataloader",),
}
_LIGHTNING = "https://lightning.ai/docs/pytorch/stable"
FRAMEWORKS = {
    "lightning": Framework(
        "Lightning",
        ("with_lightning.py",),
        ("lightning",),
        "epoch",
        f"{_LIGHTNING}/common/checkpointing_basic.html#resume-training-state",
        "State of all optimizers · State of all learning rate schedulers · State of all callbacks",
    ),
    "lightning_stateful": Framework(
        "Lightning, StatefulDataLoader",
        ("with_lightning.py", "--stateful"),
        ("lightning", "torchdata"),
        "4 steps",
        "https://github.com/Lightning-AI/pytorch-lightning/pull/19475/files",
        "make your dataloader resumable by implementing the `state_dict` / `load_state_dict` interface",
    ),
    "exact": Framework(
        "Lightning with Exact",
        ("with_exact.py",),
        ("lightning", "leyden"),
        "4 steps",
        "exact.md",
        "stopped at any step and resumed ends bit for bit like one that was never stopped",
    ),
    "leyden": Framework(
        "leyden train",
        ("leyden",),
        ("lightning", "leyden", "hydra-core"),
        "4 steps",
        "exact.md",
        "stopped at any step and resumed ends bit for bit like one that was never stopped",
    ),
    "transformers": Framework(
        "Hugging Face Trainer",
        ("with_transformers.py",),
        ("transformers", "accelerate"),
        "4 steps",
        "https://huggingface.co/docs/transformers/v4.30.0/en/main_classes/trainer#randomness",
        "all efforts are made to restore the python, numpy and pytorch RNG states",
    ),
    "accelerate": Framework(
        "accelerate",
        ("with_accelerate.py",),
        ("accelerate",),
        "4 steps",
        "https://huggingface.co/docs/accelerate/usage_guides/checkpoint",
        "saving and loading the model, optimizer, RNG generators, and the GradScaler",
    ),
    "accelerate_stateful": Framework(
        "accelerate, StatefulDataLoader",
        ("with_accelerate.py", "--stateful"),
        ("accelerate", "torchdata"),
        "4 steps",
        "https://huggingface.co/docs/accelerate/main/en/usage_guides/checkpoint",
        "restore the dataloader with `load_state` instead of additionally calling `skip_first_batches`",
    ),
    "composer": Framework(
        "Composer",
        ("with_composer.py",),
        ("mosaicml",),
        "4 steps",
        "https://docs.mosaicml.com/projects/composer/en/latest/notes/resumption.html",
        "the trainer will handle finding and resuming from the latest checkpoints",
    ),
    "keras": Framework(
        "Keras BackupAndRestore",
        ("with_keras.py",),
        ("keras",),
        "epoch",
        "https://keras.io/api/callbacks/backup_and_restore/",
        "the training state (which includes the `Model` weights and epoch number) is restored",
    ),
    "ignite": Framework(
        "PyTorch Ignite",
        ("with_ignite.py",),
        ("pytorch-ignite",),
        "epoch",
        "https://docs.pytorch.org/ignite/generated/ignite.engine.deterministic.DeterministicEngine.html",
        "exactly the same dataflow when resuming the run from an epoch",
    ),
    "ignite_within": Framework(
        "PyTorch Ignite, within an epoch",
        ("with_ignite.py", "--within"),
        ("pytorch-ignite",),
        "4 steps",
        "https://docs.pytorch.org/ignite/engine.html#resuming-the-training",
        "approximately reproduce original run's behaviour",
    ),
    "fastai": Framework(
        "fastai",
        ("with_fastai.py",),
        ("fastai",),
        "epoch",
        "https://docs.fast.ai/learner.html#learner.load",
        "Load model and opt (if `with_opt=True`) from file",
    ),
    "skorch": Framework(
        "skorch",
        ("with_skorch.py",),
        ("skorch",),
        "epoch",
        "https://skorch.readthedocs.io/en/stable/user/save_load.html",
        "save the model parameters, optimizer, and history",
    ),
    "torchdata": Framework(
        "a loop with StatefulDataLoader",
        ("with_torchdata.py",),
        ("torchdata",),
        "4 steps",
        "https://docs.pytorch.org/data/0.11/stateful_dataloader_tutorial.html",
        "If your dataset has worker-specific state (eg RNG transform state) you can add state_dict / load_state_dict methods",
    ),
}

_OF_LEYDEN = {
    "early": (
        "objective={metric: val_loss, mode: min}",
        "+callbacks/stopping=early",
        "callbacks.stopping.patience=2",
        "trainer.max_epochs=8",
    ),
    "ema": ("+callbacks/averaging=ema",),
    "accumulate": ("trainer.accumulate_grad_batches=2",),
    "ddp": ("trainer.devices=2", "trainer.strategy=ddp"),
    "stream": ("trainer.limit_train_batches=11",),
}


def launcher_of(framework):
    """Return what starts two processes of a script, between Python and the script."""
    if framework == "leyden":  # Lightning starts its own processes there
        return []
    if framework == "composer":  # wants variables that torchrun does not set
        return ["-m", "composer", "--nproc", "2"]
    return ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"]


def script_of(framework, scenario):
    """Return what Python is given for a cell; `{dir}` stands for the folder of the run."""
    script, *options = FRAMEWORKS[framework].script
    if framework == "leyden":
        run = (
            "-m",
            "leyden",
            "train",
            "run_dir={dir}/run",
            "test=false",
            f"data.scenario={scenario}",
        )
        return [*run, *_OF_LEYDEN.get(scenario, ())]
    return [f"frameworks/{script}", "{dir}", scenario, *options]
