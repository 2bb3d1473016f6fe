"""The example is the same mathematics as the Keras program: shown against Keras itself."""

import functools
import os

import pytest
import torch
import torch.nn.functional as F
from leyden.config.paths import ROOT
from leyden.data.fetch import load

from project.data.mnist import MNIST
from project.models.mlp import MLP
from project.optimizers.rmsprop import RMSprop

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="needs keras: make setup installs it")

# Keras 3.12, the last one for Python 3.10, does not know NumPy 2's way to ask for no copy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KERAS_RMSPROP = functools.partial(RMSprop, lr=1e-3, rho=0.9, eps=1e-7)
TORCH_RMSPROP = functools.partial(torch.optim.RMSprop, lr=1e-3, alpha=0.9, eps=1e-7)


@pytest.fixture(scope="session")
def mnist_root():
    """The project's data folder, with MNIST in it."""
    load(MNIST, ROOT / "data", train=True, download=True)
    return ROOT / "data"


def keras_model(seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module", autouse=True)
def imported():
    """The first model of a process imports more of Keras, which draws random numbers: its weights are others."""
    keras_model()


def dense_layers(network):
    return [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]


def differences(mnist_root, optimizer_class, num_updates, *, seed=1, dtype=torch.float32):
    """Largest differences from Keras, in the loss and in the weights, after each update from equal weights."""
    data = MNIST(str(mnist_root))
    model = keras_model(seed)
    network = MLP(input_shape=(1, 28, 28), num_outputs=10, hidden_sizes=[512], dropout=0.0).to(dtype)
    with torch.no_grad():
        for layer, dense in zip(dense_layers(network), model.layers, strict=True):
            layer.weight.copy_(dense.kernel.value.T)
            layer.bias.copy_(dense.bias.value)
    optimizer = optimizer_class(network.parameters())
    losses, weights = [], []
    for update in range(num_updates):
        batch = slice(128 * update, 128 * (update + 1))
        images_NCHW, labels_N = data.data[batch, None].to(dtype) / 255, data.targets[batch]
        loss = F.cross_entropy(network(images_NCHW), labels_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keras_loss, _ = model.train_on_batch(
            images_NCHW.flatten(1).numpy(), keras.utils.to_categorical(labels_N.numpy(), 10), return_dict=False
        )
        # train_on_batch reports the running mean over the batches so far.
        losses.append((loss.item(), float(keras_loss)))
        model.reset_metrics()
        pairs = zip(dense_layers(network), model.layers, strict=True)
        weights.append(max((layer.weight - dense.kernel.value.T).abs().max().item() for layer, dense in pairs))
    return [abs(ours - theirs) for ours, theirs in losses], weights


# With seed 0 rounding puts a unit on the other side of ReLU's kink in update 81, whatever the order of operations.
@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_updates_are_those_of_keras(mnist_root, seed):
    losses, weights = differences(mnist_root, KERAS_RMSPROP, 100, seed=seed)
    assert max(losses) < 1e-6
    assert max(weights) < 1e-6


def test_in_double_precision_that_seed_agrees_too(mnist_root):
    keras.config.set_floatx("float64")
    try:
        losses, weights = differences(mnist_root, KERAS_RMSPROP, 100, seed=0, dtype=torch.float64)
    finally:
        keras.config.set_floatx("float32")
    assert max(losses) < 1e-6  # Keras clips probabilities to 1e-7 before the logarithm
    assert max(weights) < 1e-6


def test_the_rmsprop_of_torch_is_another_one(mnist_root):
    losses, _ = differences(mnist_root, TORCH_RMSPROP, 2)
    assert losses[0] < 1e-6  # the first loss comes before any update
    assert losses[1] > 1e-2


def test_cross_entropy_is_categorical_cross_entropy_on_one_hot_labels():
    generator = torch.Generator().manual_seed(0)
    logits_NK = 3 * torch.randn(64, 10, generator=generator)
    labels_N = torch.randint(10, (64,), generator=generator)
    one_hot_NK = keras.utils.to_categorical(labels_N.numpy(), 10)
    theirs = keras.losses.CategoricalCrossentropy()(one_hot_NK, logits_NK.softmax(dim=1).numpy())
    assert F.cross_entropy(logits_NK, labels_N).item() == pytest.approx(float(theirs), abs=1e-6)


def test_initial_weights_have_the_distribution_of_keras():
    torch.manual_seed(0)
    network = MLP(input_shape=(1, 28, 28), num_outputs=10, hidden_sizes=[512], dropout=0.0)
    for layer, dense in zip(dense_layers(network), keras_model().layers, strict=True):
        ours, theirs = layer.weight.detach().flatten().double(), dense.kernel.value.detach().flatten().double()
        assert not layer.bias.any()
        assert not dense.bias.value.any()
        # Two-sample Kolmogorov-Smirnov: 1.95 sqrt(2/n) is the bound for a level of 0.001.
        values = torch.cat([ours, theirs]).sort().values
        steps = [
            torch.searchsorted(sample.sort().values, values, right=True) / len(sample) for sample in (ours, theirs)
        ]
        assert (steps[0] - steps[1]).abs().max() < 1.95 * (2 / len(ours)) ** 0.5
        assert ours.abs().max() == pytest.approx(theirs.abs().max().item(), rel=0.01)
