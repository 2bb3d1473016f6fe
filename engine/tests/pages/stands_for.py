"""What on the pages stands for something else, what is run shorter than it is typed, and what can't be run, with why."""

# What is typed, as a pattern of a whole word or of its value: what is run.
STANDS_FOR = {
    r"…/outputs/proof/NAME": "outputs/proof/NAME",
    r"…": "",
    r"(?<==)DIR\b|^DIR$": "outputs/mnist_mlp/a",
    r"^A$|(?<=\[)A\b": "outputs/mnist_mlp/a",
    r"^B$|(?<=,)B(?=\])": "outputs/mnist_mlp/b",
    r"outputs/mnist_mlp/2026-11-24_12-00-00_000000": "outputs/mnist_mlp/a",
}
# Typed values that only make a command longer: what is run instead.
SHORTER = {
    "data.val_size=50000": "data.val_size=5000",
    "data.val_size=59000": "data.val_size=5000",
    "hydra.sweeper.num_trials=50": "hydra.sweeper.num_trials=2",
    "hydra.sweeper.num_trials=8": "hydra.sweeper.num_trials=2",
    "trainer.max_epochs=10": "trainer.max_epochs=6",
}
# Defaults of the copy in which the commands run, as file: {what stands there: what the copy has}.
SHORT = {
    "engine/src/leyden/conf/trainer/auto.yaml": {
        "limit_train_batches: 1.0": "limit_train_batches: 2",
        "limit_val_batches: 1.0": "limit_val_batches: 1",
        "limit_test_batches: 1.0": "limit_test_batches: 1",
    },
    "conf/experiment/finetune.yaml": {
        "val_size: 59000": "val_size: 5000",
        "val_batches: 5": "val_batches: 1",
    },
    # Of any number of jobs, some are built.
    "engine/src/leyden/sweep/sweep.py": {
        "MAX_CHECKED = 30": "MAX_CHECKED = 1",
        "NUM_DRAWN = 10": "NUM_DRAWN = 1",
    },
    "engine/src/leyden/conf/hydra/sweeper/optuna.yaml": {"num_trials: 20": "num_trials: 2"},
}
# Beginnings of commands that are not run, by why; their words are checked as far as that can be without running them.
NOT_RUN = {
    "the copy in which the commands run is the clone": ("git clone", "cd ", "source "),
    "needs a newer commit of the library": (
        *("git remote", "git fetch", "git rm -rq engine", "git checkout leyden"),
        "git diff HEAD leyden/main",
    ),
    "tests/reproduction/test_reproduce.py does it": ("git bisect",),
    "needs the version of a release; tests/pages/test_texts.py reads notes by it": (
        "python engine/scripts/release.py",
    ),
    "needs the package index; .ci/run starts with what it does": (
        *("pip install", ".venv/bin/python -m pip", "python -m venv", "uv sync", "make setup"),
    ),
    "needs a cluster, tests/queues has one; its overrides are composed": ("sbatch ",),
    "needs a registry of images; tests/pages/test_texts.py reads the files": (
        "docker ",
        "apptainer ",
    ),
    "serves until it is ended; tests/browser looks at it, and builds the site": (
        "make tensorboard",
        "make docs",
    ),
    "is a step of .ci/run, but for the benchmarks, which take 25 minutes": (
        "make -C engine",
        "make check",
    ),
    "tests/test_distribution.py does it": ("make mine NAME=kanlab ENGINE=",),
    "is what runs this, or prints the Makefile": ("make test", "make help"),
    "takes long; its options are looked up": ("python engine/bench/",),
}
NOT_RUN = tuple(beginning for beginnings in NOT_RUN.values() for beginning in beginnings)
# Overrides that need what this machine lacks: a command with one of them is composed and checked, never run.
NOT_HERE = {
    "trainer=ddp": "is several processes: tests/test_main.py and tests/sweep run them",
    "trainer=elastic": "is several processes: tests/exact/test_elastic.py runs them",
    "cluster=": "needs a cluster: tests/queues has one",
}
