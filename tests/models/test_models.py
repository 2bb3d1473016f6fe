"""What every network in conf/model must do: a new file needs no new test. Each failure says what to mend."""

import functools
import io

import hydra
import pytest
import torch
import torch.nn.functional as F

from leyden import build
from leyden.config import CONF, UserError
from leyden.data.facts import Facts

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SHAPES = ((1, 28, 28), (3, 32, 32))  # of the images in conf/data; a test of the data sets holds this true


def make(model, shape, *, seed=0, num_classes=10, overrides=()):
    channels = shape[0]
    facts = Facts(shape, num_classes, tuple(map(str, range(num_classes))), (0.0,) * channels, (1.0,) * channels)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=[f"model={model}", *overrides])
    torch.manual_seed(seed)
    return build.network(cfg, facts)


@functools.cache
def shapes(model):
    """The shapes that it takes; it says why of those that it refuses."""
    refusals, taken = [], []
    for shape in SHAPES:
        try:
            make(model, shape)
        except UserError as error:
            if "images of" not in str(error):
                pytest.fail(f"a shape is refused by ValueError('images of ...'), not by: {error}")
            refusals.append(str(error))
        else:
            taken.append(shape)
    assert taken, f"it takes none of the data sets' shapes: {'; '.join(refusals)}"
    return taken


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@pytest.fixture
def network(model):
    return make(model, shapes(model)[0])


@pytest.fixture
def images(model):
    """Random images from 0 to 1, shape (10, C, H, W)."""
    return torch.rand(10, *shapes(model)[0], generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(10)


def step(network, images, optimizer):
    """One update; returns the loss before it."""
    loss = F.cross_entropy(network(images), LABELS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("num_classes", [7, 10])
def test_images_give_a_logit_a_class(model, num, num_classes):
    for shape in shapes(model):
        logits = make(model, shape, num_classes=num_classes).eval()(torch.zeros(num, *shape))
        assert logits.shape == (num, num_classes), f"for images of {shape}: forward must give (N, num_classes)"


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(network, images):
    loss = F.cross_entropy(network(images), LABELS)
    loss.backward()
    assert loss.isfinite(), "the first loss is not a number: look at the initial weights"
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} is not used by forward: remove it"
        assert parameter.grad.any(), f"{name} has a gradient of zero everywhere: nothing of it reaches the logits"


def test_the_seed_decides_the_weights_and_the_first_steps(model, images):
    def after_a_step(seed):
        network = make(model, shapes(model)[0], seed=seed)
        step(network, images, torch.optim.SGD(network.parameters(), lr=0.1))
        return network.state_dict()

    first, again, other = (after_a_step(seed) for seed in (0, 0, 1))
    for key in first:
        assert torch.equal(first[key], again[key]), f"{key}: not from PyTorch's random numbers alone"
    assert not all(torch.equal(first[key], other[key]) for key in first), "the weights don't depend on the seed"


def test_it_learns_a_batch_by_heart(network, images):
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    first = step(network, images, optimizer)
    learned = any(step(network, images, optimizer) < 0.2 * first for _ in range(100))
    assert learned, "100 steps on ten images hardly lower the loss: is it all connected?"


def test_a_checkpoint_holds_all_of_it(model, network, images):
    step(network, images, torch.optim.SGD(network.parameters(), lr=0.1))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = make(model, shapes(model)[0], seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    expected, found = (each.eval()(images) for each in (network, other))
    assert torch.equal(expected, found), "something is neither a parameter nor a buffer: use register_buffer"


def test_it_trains_in_bf16(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(images), LABELS)
    loss.backward()
    assert loss.isfinite()


def test_it_can_be_exported_with_any_number_of_images(network, images):
    program = torch.export.export(
        network.eval(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
    )
    torch.testing.assert_close(program.module()(images), network(images))


@pytest.mark.slow
def test_it_takes_a_step_compiled(model, images):
    plain, compiled = (
        make(model, shapes(model)[0], overrides=[f"compile={on}"]).eval() for on in ("false", "true")
    )
    assert list(plain.state_dict()) == list(compiled.state_dict())
    loss = F.cross_entropy(compiled(images), LABELS)
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(plain(images), LABELS), rtol=1e-4, atol=1e-4)
