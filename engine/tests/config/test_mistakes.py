"""A mistake in what is typed ends in a line or two that say what to do, before training, and leaves nothing behind."""

import os

import pytest
import torch

from tests import conf, mistakes, records
from tests.conftest import QUICK

# What is typed for `leyden train`, and the words that refuse it.
MISTAKES = r"""
sead=1  =>  did you mean seed?
picture_format=svg  =>  picture_format=svg: must be one of png, pdf
optimizer.lrr=1  =>  did you mean optimizer.lr?
model.hidden_size=[3]  =>  did you mean model.hidden_sizes?
trainer.max_epoch=3  =>  did you mean trainer.max_epochs?
lr=1  =>  did you mean optimizer.lr?
modle=mlp  =>  did you mean model?
+sead=1  =>  sead: no such key
+model.widht=3  =>  unexpected keyword argument 'widht'
+optimizer.lrr=3  =>  did you mean lr?
+callbacks.checkpoint.every=3  =>  unexpected keyword argument 'every'
optimizer=nothing  =>  optimizer=nothing: no such choice; there are keras_rmsprop (in conf/) and adam, adamw, rmsprop, sgd (the library's)
resume=perhaps  =>  resume=perhaps: must be one of auto, never, must
test=perhaps  =>  test=perhaps: must be one of auto, true, false
objective.mode=best  =>  objective.mode=best: must be one of min, max
data.normalize=none  =>  normalize=none: the samples are uint8 pixels; must be unit or standardize
data.num_folds=1  =>  num_folds=1: must be a whole number, 2 or larger
task=regression  =>  task: Regression trains on values; the targets of these data are classes
task=autoencoder  =>  outputs of shape (2, 10) for inputs of (2, 1, 28, 28)
trainer.max_epochs=null  =>  trainer.max_epochs=null: must be
+trainer.max_steps=null  =>  trainer:
seed=abc  =>  could not be converted to Integer
name=a/b  =>  name=a/b: must be letters
seed=4294967296  =>  must be a whole number from 0 to 4294967295
trainer.log_every_n_steps=0  =>  trainer.log_every_n_steps=0
trainer.limit_train_batches=0  =>  trainer.limit_train_batches=0
trainer.limit_test_batches=none  =>  trainer:
~callbacks.checkpoint  =>  callbacks: must have one RunCheckpoint
compile=3x  =>  is not a valid bool
task.class_weights=[1,2]  =>  class_weights: must be 10 numbers, one per class; found 2
task.class_weights=balanced task.loss={_target_:torch.nn.NLLLoss}  =>  apply to cross-entropy only
scheduler=plateau scheduler.monitor=val/los  =>  scheduler.monitor=val/los: must be one of train/acc
scheduler=plateau +scheduler.warmup_steps=5  =>  warmup_steps=5: a schedule that follows a metric takes none
scheduler=plateau objective=null scheduler.monitor=val/acc  =>  scheduler.mode=None: must be one of max, min
scheduler=cosine scheduler.warmup_steps=100000  =>  warmup_steps=100000: must be fewer than the run's
task.label_smoothing=1  =>  label_smoothing=1: must be a number in [0, 1)
data/augment=affine data.augment.num_chunks=0  =>  num_chunks=0: must be a whole number, 1 or larger
scheduler=onecycle scheduler.pct_start=2  =>  scheduler: Expected float between 0 and 1 pct_start
model=cnn model.num_channels=[8,8,8,8,8]  =>  model: num_channels=[8, 8, 8, 8, 8]: too many
model._target_=nowhere.models.mpl.MLP  =>  model: Error loading 'nowhere.models.mpl.MLP'
optimizer.lr=nan  =>  optimizer:
optimizer=keras_rmsprop optimizer.rho=1  =>  rho=1: must be a number in [0, 1)
data.batch_size=0  =>  batch_size=0: must be a whole number, 1 or larger
data.val_size=-1  =>  val_size=-1: must be a whole number, 0 or larger
data.val_size=60000  =>  must be smaller than the training set of 60000 samples
trainer.max_epochs=0  =>  trainer.max_epochs=0: must be a whole number, 1 or larger
trainer.precision=8  =>  trainer:
trainer.accelerator=abacus  =>  trainer:
trainer.devices=0  =>  trainer:
model.hidden_sizes=[]  =>  hidden_sizes=[]: must be a list of positive whole numbers
callbacks.checkpoint.every_n_steps=0  =>  every_n_steps=0
objective.metric=val/f1  =>  objective.metric=val/f1: must be one of train/acc, train/loss, val/acc, val/loss
data.val_size=0  =>  data.val_size=0 leaves no validation split
+model.num_outputs=3  =>  model.num_outputs=3: is passed by the program
seed=[  =>  seed=[
seed  =>  seed: must be key=value
data.dataset._target_=torchvision.datasets.ImageFolder  =>  got an unexpected keyword argument 'train'
model._target_=null  =>  model._target_=None: must be the dotted name of a class or function
--optimizer.lr=0.1  =>  --optimizer.lr=0.1: no such option; a key has no dashes, such as optimizer.lr=0.1
--cfg  =>  argument --cfg/-c: invalid choice:
=5  =>  =5: no key is before the =
model@model=5  =>  model@model=5: no such choice
seed=${nothing}  =>  nothing
model=mobilenet +model.network.weights=NOPE  =>  model: network: can't be created from its settings (KeyError: 'NOPE')
sweep.settings=[{model:mlp}]  =>  is for a sweep, which needs -m
model.dropuot=0.5  =>  leyden: model.dropuot: no such key; did you mean model.dropout? +model.dropuot=... adds one
task=own task._target_=mine.GAN task.latent_size=2  =>  leyden: task.latent_size: no such key; +task.latent_size=... adds one
optimizer.lrr=1 modle.x=2  =>  did you mean optimizer.lr?
trainer=ddp trainer.accelerator=cpu trainer.devices=2 data.val_size=59999  =>  too few for 2 processes
trainer.strategy=fsdp2 +callbacks/averaging=ema  =>  trainer.strategy=fsdp2: an average of weights needs them whole
trainer.strategy=fsdp2 +trainer.sync_batchnorm=true  =>  trainer.strategy=fsdp2: trainer.sync_batchnorm has no effect
trainer.strategy={_target_:leyden.exact.FSDP2}  =>  trainer.strategy=leyden.exact.FSDP2: must be fsdp2
optimizer=adam +optimizer.betas=[0.9]  =>  optimizer:
scheduler=cosine scheduler.T_max=0  =>  scheduler:
+callbacks.es._target_=lightning.pytorch.callbacks.EarlyStopping +callbacks.es.monitor=x  =>  monitor=x; must
+task.nope=1  =>  unexpected keyword argument 'nope'; it accepts
+trainer.max_time=soon  =>  not a valid duration
trainer.limit_val_batches=0.0001  =>  trainer.limit_val_batches=0.0001: leaves none of
trainer.limit_test_batches=0.00001 test=auto data.eval_batch_size=1000  =>  trainer.limit_test_batches=1e-05: leaves none of
callbacks.checkpoint.metric=train/acc  =>  must be those of the objective
sweep=grid  =>  sweep=grid: needs -m
trainer.num_nodes=2 trainer.strategy=ddp trainer.accelerator=cpu  =>  trainer.num_nodes=2: nothing starts the other nodes' processes
freeze=[nothing.*]  =>  freeze: nothing.* matches none of
freeze=*.bias  =>  freeze=*.bias: must be a list, such as freeze=[*.bias]
task=own task._target_=tests.tasks.own.Plain freeze=[nothing.*]  =>  freeze: nothing.* matches none of
+optimizer.groups.x={match:"nothing.*"}  =>  optimizer: groups.x: nothing.* matches none of network.layers.1.weight
+optimizer.groups.first={match:"network.layers.1.*",freeze:true}  =>  optimizer: groups.first.freeze: can't be set per group; set the root key ... freeze=[network.layers.1.*] instead
task=own task._target_=torch.nn.Identity  =>  task: creates a Identity; must be a LightningModule
data=own data._target_=torch.nn.Identity task=own task._target_=tests.tasks.own.Plain  =>  data: creates a Identity; must be a LightningDataModule
callbacks.checkpoint.keep_all=every  =>  keep_all=every
-m seed=0,1 sweep.average_over=[sede]  =>  sweep.average_over=['sede']: sede is not a setting of the runs
-m seed=0,1 sweep.average_over=seed  =>  sweep.average_over=seed: must be a list of keys
-m hydra/launcher=basic seed=0,1  =>  hydra/launcher=basic: must be local, slurm or ray
-m optimizer.lr=0.1,-1,0.2  =>  job 1 of 3,
-m model.hidden_sizes=[16],[0]  =>  hidden_sizes=[0]: must be a list of positive whole numbers
-m data.val_size=100,60000  =>  must be smaller than the training set
-m model=mlp,cnm  =>  model=cnm: no such choice
-m optimizer.lr=interval(0.1,0.2)  =>  a grid takes lists
-m seed=0,1 cluster.num_jobs=0  =>  cluster.num_jobs=0: must be
-m seed=0,1 trainer.precision=32-true,banana  =>  Precision 'banana' is invalid
-m seed=0,1 +logger.csv.foo=1  =>  logger.csv: got an unexpected keyword argument 'foo'
-m seed=0,1 +trainer.foo=1  =>  unexpected keyword argument 'foo'
-m seed=0,1 run_dir=there  =>  run_dir: each job of a sweep has a directory of its own
-m seed=range(0.0,1.0,0)  =>  Invalid range values
-m seed=glob(*)  =>  seed=glob(*): has no values to try
-m seed=0,1 cluster.num_jobs=x  =>  leyden: cluster.num_jobs=x: must be a positive whole number
-m seed=0,1 hydra.sweeper.params=3  =>  hydra.sweeper.params=3: must be values by key
-m seed=0,1 sweep_name=a,b  =>  sweep_name=a,b: is the same for all jobs of a sweep
-m seed=0,1 objective.metric=[val/acc,val/loss]  =>  objective.metric=['val/acc', 'val/loss']: must be one metric
-m cluster=slurm cluster.wait=false sweep=random  =>  cluster.wait=false: is for grids; a search asks for its next trial
-m sweep=tpe hydra.sweeper.num_trials=0  =>  hydra.sweeper.num_trials=0: must be a positive whole number
-m sweep=tpe model.dropout=interval(0.0,1.5)  =>  dropout=1.5
-m sweep=tpe optimizer.lr=tag(log,interval(0.0,0.1))  =>  optimizer.lr=tag(log,interval(0.0,0.1))
-m sweep=tpe objective.metric=train/loss objective.mode=min  =>  pruning needs one objective
-m sweep=tpe optimizer.lr=tag(lgo,interval(0.1,0.2))  =>  the tag lgo is unknown here
-m sweep=tpe hydra.sweeper.params=null  =>  a search needs keys to search
-m sweep=tpe hydra.sweeper.sampler=null  =>  hydra.sweeper.sampler=None: must be one of Optuna's samplers
-m sweep=tpe +hydra.sweeper.sampler.n_startup_trials=x  =>  hydra.sweeper.sampler: '<' not supported
-m sweep=tpe hydra/sweeper/sampler=grid  =>  hydra.sweeper.sampler: FloatDistribution.step must be given
-m sweep=tpe callbacks.pruning.pruner=null  =>  pruner=None: must be one of Optuna's pruners
-m seed=range(1000000)  =>  seed=range(1000000): a sweep has 100,000 jobs at most
-m seed=range(0,1000) optimizer.lr=range(0.1,1,0.001)  =>  seed x optimizer.lr: a sweep has 100,000 jobs at most
-m sweep.settings=[{model:mlp},{model:cnn}] seed=range(0,60000)  =>  seed x sweep.settings: a sweep has 100,000 jobs at most
-m sweep.seeds=50000 optimizer.lr=1,2,3  =>  sweep.seeds=50000 of 3 settings: a sweep has 100,000 jobs at most
-m sweep=random data.batch_size=range(1,1000000000)  =>  data.batch_size=range(1,1000000000) ... a sweep has 100,000 jobs at most
-m sweep.settings=[{seed:1,optimizer.lrr:1}]  =>  did you mean optimizer.lr?
-m sweep.settings=[{seed:1,model:mlp},{model:cnm}]  =>  model=cnm: no such choice
"""


def names(group):
    """What a person can choose from, their own YAMLs among it."""
    return sorted(path.stem for path in conf(group))


LONG = [
    (f"-m seed=range(1{'0' * 400})", "a sweep has 100,000 jobs at most"),
    (
        "model=nothing",
        f"no such choice; there are {', '.join(n for n in names('model') if n != 'none')} (in conf/) and none (the library's)",
    ),
    ("trainer=nothing", f"no such choice; there are {', '.join(names('trainer'))} (the library's)"),
]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("typed", "said"), mistakes(MISTAKES) + LONG, ids=lambda value: value[:40])
def test_a_mistake_is_named_and_leaves_nothing_behind(cli, tmp_path, typed, said):
    words = typed.split()
    place = (*QUICK, "sweep_name=s") if "-m" in words else (f"run_dir={tmp_path / 'outputs' / 'new' / 'run'}",)
    code, out, err = cli("train", *place, *words)
    assert code == 2
    assert all(part in err for part in said.split(" ... ")), err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) <= 2, err
    assert not (tmp_path / "outputs" / "new" / "run").exists()
    assert not [*(tmp_path / "outputs").rglob("config.yaml")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_is_not_there(cli, tmp_path):
    code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", "trainer=gpu")
    assert code == 2
    assert "trainer:" in err
    assert "gpu" in err.lower()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("typed", ["run_dir={file}/run", "run_dir={new} data.root={file}/data", "run_dir={new}"])
def test_a_place_that_can_not_be_written_to_is_named_and_nothing_is_begun(cli, tmp_path, typed):
    file = tmp_path / ("file" if "{file}" in typed else "outputs")
    file.write_text("")
    code, _, err = cli("train", *QUICK, "test=auto", *typed.format(file=file, new=tmp_path / "run").split())
    assert code == 2
    assert str(file) in err
    assert len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_run_directory_that_is_none(cli, tmp_path, verb):
    images = ("images=a.png",) if verb == "predict" else ()
    for directory in (tmp_path, tmp_path / "nowhere"):
        code, _, err = cli(verb, f"run={directory}", *images)
        assert code == 2
        assert str(directory) in err
        assert len(err.strip().splitlines()) <= 2


def test_a_damaged_last_checkpoint_is_said_and_the_one_before_is_used(cli, tmp_path):
    arguments = (f"run_dir={tmp_path / 'run'}", *QUICK)
    assert cli("train", *arguments, "trainer.max_epochs=2")[0] == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    code, out, err = cli("train", *arguments, "trainer.max_epochs=3")
    assert code == 0, err
    assert err.count("last.ckpt is damaged") == 1
    assert "best.ckpt" in out + err


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict"])
def test_help_names_groups_and_keys(cli, verb):
    code, out, _ = cli(verb, "--help")
    assert code == 0
    assert f"leyden {verb}" in out
    assert {"train": "optimizer: ", "evaluate": "checkpoint: best", "predict": "invert: false"}[verb] in out
    assert out.count("\n") <= 40  # one screen


def test_data_that_are_not_those_of_the_run(cli, tmp_path):
    assert cli("train", f"run_dir={tmp_path / 'run'}", *QUICK, "data.normalize=standardize")[0] == 0
    config = records.config(tmp_path / "run")
    config["data"]["val_size"] = 58000  # another training split, with another mean
    records.put(tmp_path / "run", config=config)
    code, _, err = cli("evaluate", f"run={tmp_path / 'run'}")
    assert code == 2
    assert "not the dataset" in err


def test_names_with_brackets_are_names(cli, tmp_path):
    code, out, err = cli("train", f"run_dir='{tmp_path}/q[b].d'", *QUICK, "trainer.max_epochs=1")
    assert code == 0, err
    assert "q[b].d" in out


@pytest.mark.parametrize("key", ["run_dir", "outputs", "name"])
def test_what_is_no_utf_8_is_refused(cli, tmp_path, key):
    code, _, err = cli("train", f"{key}={tmp_path}/{os.fsdecode(bytes([255]))}")
    assert code == 2
    assert err.endswith(f"{key}={tmp_path}/\\udcff: holds bytes that are not UTF-8; rename the file or folder\n")
