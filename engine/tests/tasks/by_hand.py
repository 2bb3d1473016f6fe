import lightning as L
from torch import nn

from tests.strangers.plain import network
from tests.strangers.stand_ins import Manual


class ByHand(Manual):
    """Two networks for images, each with an optimizer, stepped by hand; it has no `test_step`."""

    test_step = L.LightningModule.test_step

    def __init__(self):
        super().__init__()
        self.net, self.other = (nn.Sequential(nn.Flatten(), network(784)) for _ in range(2))

    def loss(self, batch):
        images, labels = batch
        return super().loss((images, labels.float()))
