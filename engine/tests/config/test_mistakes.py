"""A mistake in what is typed ends in a line or two that say what to do, before training, and leaves nothing behind."""

import os

import pytest
import torch

from tests import mistakes, records
from tests.conftest import QUICK

# What is typed for `leyden train`, and the words that refuse it.
MISTAKES = r"""
sead=1  =>  did you mean seed?
lr=1  =>  did you mean optimizer.lr?
+sead=1  =>  sead: no such key
+optimizer.lrr=3  =>  unexpected keyword argument 'lrr' ... it accepts eps, lr,
optimizer=nothing  =>  optimizer=nothing: no such choice; there are keras_rmsprop (in conf/) and adam, adamw, rmsprop, sgd (the library's)
resume=perhaps  =>  resume=perhaps: must be one of auto, never, must
objective.mode=best  =>  objective.mode=best: must be one of min, max
data.normalize=none  =>  normalize=none: the samples are uint8 pixels; must be unit or standardize
task=regression  =>  task: Regression trains on values; the targets of these data are classes
task=autoencoder  =>  outputs of shape (2, 10) for inputs of (2, 1, 28, 28)
~model.hidden_sizes ~model.dropout model._target_=torch.nn.Identity  =>  model, given samples of shape (2, 1, 28, 28): returns a Tensor of shape (2, 1, 28, 28); must be logits of shape (2, 10)
trainer.max_epochs=null  =>  trainer.max_epochs=null: must be
seed=abc  =>  could not be converted to Integer
name=a/b  =>  name=a/b: must be letters
seed=4294967296  =>  must be a whole number from 0 to 4294967295
trainer.log_every_n_steps=0  =>  trainer.log_every_n_steps=0: must be a whole number, 1 or larger
trainer.limit_train_batches=0  =>  trainer.limit_train_batches=0
trainer.limit_val_batches=0  =>  trainer.limit_val_batches=0: leaves no batch to evaluate on
data.fold=1  =>  fold=1: is one of several folds, so num_folds must be set
data.num_folds=3 data.fold=3  =>  fold=3: must be one from 0 to 2
data.num_folds=60001  =>  num_folds=60001, fold=0: must be 2 to 60000 folds
~callbacks.checkpoint  =>  callbacks: must have one RunCheckpoint
compile=3x  =>  is not a valid bool
task.label_smoothing=1.0  =>  label_smoothing=1.0: must be
task=autoencoder model=vae task.beta=-1  =>  beta=-1: must be
task.class_weights=[1,2]  =>  class_weights: must be 10 numbers, one per class; found 2
scheduler=plateau scheduler.monitor=val/los  =>  scheduler.monitor=val/los: must be one of train/acc
scheduler=plateau objective=null scheduler.monitor=val/acc  =>  scheduler.mode=None: must be one of max, min
scheduler=cosine scheduler.warmup_steps=100000  =>  warmup_steps=100000: must be fewer than the run's
model._target_=nowhere.models.mpl.MLP  =>  model: Error loading 'nowhere.models.mpl.MLP'
data.val_size=60000  =>  must be smaller than the training set of 60000 samples
trainer.devices=0  =>  trainer:
objective.metric=val/f1  =>  objective.metric=val/f1: must be one of train/acc, train/loss, val/acc, val/loss
data.val_size=0  =>  data.val_size=0 leaves no validation split
+model.num_outputs=3  =>  model.num_outputs=3: is passed by the program
+task.optimizer=Adam  =>  task.optimizer=Adam: is passed by the program and can't be set
seed  =>  seed: must be key=value
--optimizer.lr=0.1  =>  --optimizer.lr=0.1: no such option; a key has no dashes
model@model=5  =>  model@model=5: no such choice
model=../../etc  =>  etc: no such choice
seed=${nothing}  =>  nothing
sweep.settings=[{model:mlp}]  =>  is for a sweep, which needs -m
task=own task._target_=mine.GAN task.latent_size=2  =>  leyden: task.latent_size: no such key; +task.latent_size=... adds one
trainer=ddp trainer.accelerator=cpu trainer.devices=2 data.val_size=59999  =>  too few for 2 processes
trainer.strategy=fsdp2 +callbacks/averaging=ema  =>  trainer.strategy=fsdp2: an average of weights needs them whole
trainer=elastic trainer.accelerator=cpu trainer.devices=3  =>  virtual_ranks=8: can't be shared by 3 processes
trainer=elastic trainer.devices=1 trainer.virtual_ranks=x  =>  virtual_ranks=x: must be a positive whole number
trainer=fsdp2 trainer.accelerator=cpu +trainer.virtual_ranks=8  =>  trainer.virtual_ranks=8: needs trainer.strategy=elastic, not fsdp2
+trainer.virtual_ranks=8  =>  trainer.virtual_ranks=8: needs trainer.strategy=elastic, not auto
trainer=elastic cluster=slurm_ddp cluster.partition=a -m  =>  needs trainer.strategy=elastic, not ddp
trainer.strategy={_target_:leyden.exact.FSDP2}  =>  trainer.strategy=leyden.exact.FSDP2: must be fsdp2
+callbacks.es._target_=lightning.pytorch.callbacks.EarlyStopping +callbacks.es.monitor=x  =>  monitor=x; must
+task.metrics.each={_target_:torchmetrics.classification.MulticlassF1Score,average:null}  =>  task.metrics.each: gives values of shape (10,), and a metric is one number ... torchmetrics.ClasswiseWrapper
+trainer.max_steps=5  =>  objective.metric=val/acc: no epoch of this run ends with a validation
+trainer.val_check_interval=7 trainer.max_epochs=2  =>  objective.metric=val/acc: no epoch of this run ends with a validation
+trainer.val_check_interval=30 +trainer.check_val_every_n_epoch=null trainer.max_epochs=2  =>  objective.metric=val/acc: no epoch of this run ends with a validation
+callbacks.swa={_target_:lightning.pytorch.callbacks.StochasticWeightAveraging,swa_lrs:0.01}  =>  callbacks.swa: StochasticWeightAveraging: its average is not saved in checkpoints; use +callbacks/averaging=ema
+callbacks.ema={_target_:leyden.callbacks.EMA,decay:2,update_every_n_steps:1}  =>  callbacks.ema: Invalid decay value 2 provided
+callbacks.ema={_target_:leyden.callbacks.EMA,decay:0.9,update_every_n_steps:0}  =>  update_every_n_steps=0: must be a whole number, 1 or larger
+callbacks.ema={_target_:lightning.pytorch.callbacks.EMAWeightAveraging,update_starting_at_epoch:1}  =>  callbacks.ema: EMAWeightAveraging: must average after steps, from the first one on
+task.nope=1  =>  unexpected keyword argument 'nope'; it accepts
sweep=grid  =>  sweep=grid: needs -m
trainer.num_nodes=2 trainer.strategy=ddp trainer.accelerator=cpu  =>  trainer.num_nodes=2: nothing starts the other nodes' processes
optimizer.lr=true  =>  optimizer.lr=True: must be a number, 0 or larger
+trainer.gradient_clip_val=-1  =>  trainer.gradient_clip_val=-1: must be a number, 0 or larger
callbacks.progress.refresh_rate=-1  =>  refresh_rate=-1: must be a whole number, 0 or larger
freeze=[nothing.*]  =>  freeze: nothing.* matches none of
task=own task._target_=tests.tasks.own.Plain freeze=[nothing.*]  =>  freeze: nothing.* matches none of
+optimizer.groups.x={match:"nothing.*"}  =>  optimizer: groups.x: nothing.* matches none of network.layers.1.weight
+optimizer.groups.first={match:"network.layers.1.*",freeze:true}  =>  optimizer: groups.first.freeze: can't be set per group; set the root key ... freeze=[network.layers.1.*] instead
task=own task._target_=torch.nn.Identity  =>  task: creates a Identity; must be a LightningModule
data=own data._target_=torch.nn.Identity task=own task._target_=tests.tasks.own.Plain  =>  data: creates a Identity; must be a LightningDataModule
-m seed=0,1 sweep.average_over=[sede]  =>  sweep.average_over=['sede']: sede is not a setting of the runs
-m cluster.launcher=sge seed=0,1  =>  cluster.launcher=sge: must be one of
-m optimizer.lr=0.1,-1,0.2  =>  job 1 of 3,
-m model=mlp,cnm  =>  model=cnm: no such choice
-m optimizer.lr=interval(0.1,0.2)  =>  a grid takes lists
-m seed=0,1 trainer.precision=32-true,banana  =>  Precision 'banana' is invalid
-m seed=0,1 +logger.csv.foo=1  =>  logger.csv: got an unexpected keyword argument 'foo'
-m seed=0,1 run_dir=there  =>  run_dir: each job of a sweep has a directory of its own
-m seed=0,1 ++run_dir=there  =>  run_dir: each job of a sweep has a directory of its own
-m seed=0,3 data.num_folds=3 data.fold=${seed}  =>  job 1 of 2, ... fold=3: must be one
-m seed=range(0.0,1.0,0)  =>  Invalid range values
-m seed=glob(*)  =>  seed=glob(*): has no values to try
-m seed=0,1 cluster.num_jobs=x  =>  leyden: cluster.num_jobs=x: must be a positive whole number
-m cluster=slurm cluster.wait=false sweep=random  =>  cluster.wait=false: is for grids; a search asks for its next trial
-m sweep=tpe model.dropout=interval(0.0,1.5)  =>  dropout=1.5
-m sweep=tpe optimizer.lr=tag(log,interval(0.0,0.1))  =>  optimizer.lr=tag(log,interval(0.0,0.1))
-m sweep=tpe objective.metric=train/loss objective.mode=min  =>  pruning needs one objective
-m sweep=tpe optimizer.lr=tag(lgo,interval(0.1,0.2))  =>  the tag lgo is unknown here
-m sweep=tpe hydra/sweeper/sampler=grid  =>  hydra.sweeper.sampler: FloatDistribution.step must be given
-m seed=range(1000000)  =>  seed=range(1000000): a sweep has 100,000 jobs at most
-m sweep.seeds=50000 optimizer.lr=1,2,3  =>  sweep.seeds=50000 of 3 settings: a sweep has 100,000 jobs at most
-m optimizer.lr=0.1,0.2 sweep.seeds=auto  =>  sweep.max_runs=null: sweep.seeds=auto needs the largest number of runs
-m optimizer.lr=0.1,0.2 sweep.seeds=auto sweep.max_runs=5  =>  sweep.max_runs=5: sweep.seeds=auto needs
-m optimizer.lr=0.1,0.2 sweep.max_runs=60  =>  sweep.max_runs=60: is for sweep.seeds=auto
-m optimizer.lr=0.1,0.2 sweep.seeds=auto sweep.max_runs=60 sweep.average_over=[]  =>  sweep.seeds=auto: sweep.average_over=[]
-m optimizer.lr=0.1,0.2 sweep.seeds=auto sweep.max_runs=60 sweep=random  =>  sweep.seeds=auto: is for a grid
-m optimizer.lr=0.1,0.2 sweep.seeds=2 sweep.settings=[{seed:1},{seed:2}]  =>  sweep.seeds=2: the sweep is over seed itself
-m optimizer.lr=0.1,0.2 sweep.seeds=automatic  =>  sweep.seeds=automatic: must be a positive whole number, or auto
-m optimizer.lr=0.1,0.2 sweep.seeds=auto sweep.max_runs=60 objective=null  =>  objective=null: sweep.seeds=auto needs an objective
-m cluster=ray seed=0,1  =>  cluster.submit: ray is not installed on this machine
-m sweep=random sweep.space=tests.sweep.spaces.wrong  =>  optimizer.lrr
-m sweep.settings=[]  =>  sweep.settings=[]: must be a list of values by key
-m sweep.settings=[{seed:1,model:mlp},{model:cnm}]  =>  model=cnm: no such choice
+hydra.callbacks.mine._target_=x  =>  has no effect in Leyden
hydra.run.dir=x  =>  has no effect in Leyden
"""
LARGE = (f"-m seed=range(1{'0' * 400})", "a sweep has 100,000 jobs at most")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("typed", "said"), [*mistakes(MISTAKES), LARGE], ids=lambda value: value[:40]
)
def test_a_mistake_is_named_and_leaves_nothing_behind(command, tmp_path, typed, said):
    words = typed.split()
    place = (
        (*QUICK, "sweep_name=s")
        if "-m" in words
        else (f"run_dir={tmp_path / 'outputs' / 'new' / 'run'}",)
    )
    out, err = command("train", *place, *words, code=2)
    for part in said.split(" ... "):
        assert part in err, err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) <= 2, err
    assert not (tmp_path / "outputs" / "new" / "run").exists()
    assert not [*(tmp_path / "outputs").rglob("config.yaml")]


OF_RUNS = """
predict run=run images=nowhere.png  =>  images=nowhere.png: no such file or folder
predict run=run images=image.png output=o.xml  =>  must end in .csv or .json
predict run=run images=image.png output=nowhere/o.csv  =>  there is no folder nowhere
predict run=run images=image.png checkpoint=first  =>  checkpoint=first: must be best, last, or a kept one
predict run=run table=t.csv output=./t.csv  =>  output=t.csv: is the table that is read
predict run=run table=t.csv invert=true  =>  invert=true: is for images
evaluate run=run row=2  =>  row=2: is for runs=DIR
evaluate runs=run row=9999999999999999999  =>  must be a positive whole number
predict run=run  =>  run=DIR with images=FILES, or with table=FILE: must be given
evaluate run=run runs=run  =>  run=DIR, or runs=DIR with row=NUMBER, must be given
evaluate run=run trust=yes  =>  trust=yes: must be one of true, false
export  =>  run=DIR must be given
export run=run output=nowhere/model.onnx  =>  output=nowhere/model.onnx: must be the name of a .onnx file
export run=run output=model.pt  =>  output=model.pt: must be the name of a .onnx file
export run=run format=  =>  format=: must be one of run=, output=
note  =>  run=DIR is needed
note run=nowhere note=x  =>  nowhere: not a run directory
note run=nowhere  =>  note=TEXT or tags=[WORD,...] is needed
"""


def test_a_mistake_in_what_is_asked_of_a_run_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    records.put("run", config={"name": "x", "trainer": {}})
    torch.save({}, "run/checkpoints/best.ckpt")
    for typed, said in mistakes(OF_RUNS):
        code, _, err = cli(*typed.split())
        assert (code, said in err, len(err.splitlines()) <= 2) == (2, True, True), (typed, err)


def test_a_place_that_can_not_be_written_to_is_named_and_nothing_is_begun(command, tmp_path):
    new = f"run_dir={tmp_path / 'run'}"
    (tmp_path / "file").write_text("")
    (tmp_path / "outputs").write_text("")
    for typed in (
        f"run_dir={tmp_path / 'file'}/run",
        f"{new} data.root={tmp_path / 'file'}/data",
        new,
    ):
        _, err = command("train", *QUICK, "test=auto", *typed.split(), code=2)
        assert str(tmp_path / ("file" if "file" in typed else "outputs")) in err
        assert len(err.strip().splitlines()) <= 2
        assert not (tmp_path / "run").exists()
    for key in ("run_dir", "name"):
        _, err = command("train", f"{key}=/x/{os.fsdecode(bytes([255]))}", code=2)
        assert err.endswith(
            f"{key}=/x/\\udcff: holds bytes that are not UTF-8; rename the file or folder\n"
        )


def test_help_names_groups_and_keys_on_one_screen(command):
    words = {"train": "optimizer: ", "evaluate": "checkpoint=best", "predict": "invert=true"}
    for verb, said in {**words, "runs": "filter by metrics", "compare": "margin=0.002"}.items():
        out, _ = command(verb, "--help")
        assert f"leyden {verb}" in out, out
        assert said in out, out
        assert out.count("\n") <= 40, out
        assert max(map(len, out.splitlines())) <= 80
