"""Callbacks as strangers write them, one per trait; each class says which."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BaseFinetuning


class Milestones(BaseFinetuning):
    """Lightning's own finetuning: the first layer from the second epoch on."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.01)


class EMA(L.Callback):
    """An average of the weights, to which they are set after each epoch; no state is kept."""

    def __init__(self):
        self.shadow = {}

    def on_train_batch_end(self, trainer, pl_module, *args):
        for name, each in pl_module.named_parameters():
            mean = self.shadow.setdefault(name, each.detach().clone())
            mean.lerp_(each.detach(), 0.1)

    def on_train_epoch_end(self, trainer, pl_module):
        with torch.no_grad():
            for name, each in pl_module.named_parameters():
                each.lerp_(self.shadow[name], 0.5)


class EMAWithState(EMA):
    """The same with a state."""

    def state_dict(self):
        return {"shadow": self.shadow}

    def load_state_dict(self, state):
        self.shadow = state["shadow"]


class Warmup(L.Callback):
    """A counter of its own, by which it sets the learning rate."""

    num = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.num += 1
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.001 * self.num


class Noise(L.Callback):
    """Noise on the gradients, by a generator of its own."""

    def __init__(self):
        self.rng = torch.Generator().manual_seed(0)

    def on_after_backward(self, trainer, pl_module):
        for each in pl_module.parameters():
            each.grad.add_(torch.randn(each.shape, generator=self.rng), alpha=0.01)


class Norms(L.Callback):
    """A state that is an array, by which gradients are scaled."""

    def __init__(self):
        self.norm = np.ones(1)

    def on_after_backward(self, trainer, pl_module):
        for each in pl_module.parameters():
            self.norm = 0.9 * self.norm + 0.1 * each.grad.norm().item()
            each.grad.div_(float(self.norm[0]))

    def state_dict(self):
        return {"norm": self.norm}

    def load_state_dict(self, state):
        self.norm = np.asarray(state["norm"])


class Watching(L.Callback):
    """One that only watches: its lists change no bit."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.losses.append(float(outputs["loss"]) if outputs else 0.0)


class TellsEpoch(L.Callback):
    """It tells the data set the epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        trainer.datamodule.train.epoch = trainer.current_epoch


class Reweighting(L.Callback):
    """It chooses another order of samples when an epoch starts, in the sampler."""

    def on_train_epoch_start(self, trainer, pl_module):
        weights = trainer.datamodule.sampler.weights
        weights.copy_(torch.rand(len(weights), dtype=torch.double))
