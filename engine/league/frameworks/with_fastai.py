"""fastai with SaveModelCallback at each epoch's end, and fit(start_epoch=…): python with_fastai.py DIR SCENARIO."""

import sys
from pathlib import Path

import task
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Callback, Learner
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from torch.nn.functional import mse_loss


class Marks(Callback):
    """Marks of each batch."""

    def after_batch(self):
        if self.training:
            step = self.epoch * task.NUM_BATCHES + self.iter + 1
            task.mark(step, self.model, self.opt.state_dict(), [*self.xb, *self.yb])


def main(folder, scenario):
    if scenario == "ema":
        task.cannot("fastai has no average of weights")
    if scenario == "ddp":
        task.cannot("fastai trains several processes by accelerate: see there")
    set_seed(0)
    plain = task.make_loader(scenario)
    how = {"shuffle": task.is_shuffled(scenario), "num_workers": plain.num_workers}
    if scenario == "stream":
        how = {"indexed": False, "n": task.NUM_SAMPLES, "num_workers": 0}
    train = DataLoader(plain.dataset, bs=task.BATCH_SIZE, **how)
    val = DataLoader(task.Samples(scenario, is_validation=True), bs=task.NUM_VAL, num_workers=0)
    callbacks = [SaveModelCallback(every_epoch=True, with_opt=True), Marks()]
    if scenario == "accumulate":
        callbacks.append(GradientAccumulation(2 * task.BATCH_SIZE))
    if scenario == "plateau":
        callbacks.append(ReduceLROnPlateau(patience=1))
    if scenario == "early":
        callbacks.append(EarlyStoppingCallback(patience=2))
    net, data = task.make_net(scenario), DataLoaders(train, val)
    learner = Learner(data, net, mse_loss, Adam, 0.01, path=folder, cbs=callbacks)
    done = sorted(int(path.stem[6:]) for path in Path(folder).glob("models/model_*.pth"))
    start = 0
    if done:
        learner.load(f"model_{done[-1]}", with_opt=True)
        start = done[-1] + 1
    with learner.no_bar(), learner.no_logging():
        learner.fit(task.num_epochs(scenario), start_epoch=start)
    task.mark("end", learner.model)


if __name__ == "__main__":
    main(*sys.argv[1:])
