"""What every network in conf/model must do: a new file needs no new test. Each failure says what to mend."""

import functools
import io

import pytest
import torch
import yaml

from leyden.config.errors import UserError
from leyden.config.paths import CONF
from leyden.config.values import flatten
from tests.kinds import classes, make, suited

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


@pytest.fixture
def case(model):
    """The first of the data that it takes, with the task that it is for."""
    return suited(model)[0]


@pytest.fixture
def module(model, case):
    return make(model, case)


def step(module, batch, optimizer):
    """One update; returns the loss before it."""
    loss = module.step(batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("num_classes", [7, 10])
def test_one_for_classes_gives_a_logit_a_class(model, num, num_classes):
    for case in suited(model):
        if case.task == "classification" and case.facts.num_classes:
            of_so_many = classes(case.task, case.shape, num_classes)
            logits = make(model, of_so_many).eval()(torch.zeros(num, *case.shape))
            assert logits.shape == (num, num_classes), f"{case}: forward must give (N, num_classes)"


def test_the_loss_is_finite_and_every_parameter_gets_a_gradient(module, case):
    loss = module.step(case.batch).loss
    loss.backward()
    assert loss.isfinite(), "the first loss is not a number: look at the initial weights"
    for name, parameter in module.network.named_parameters():
        assert parameter.grad is not None, f"{name} is not used by forward: remove it"
        assert parameter.grad.any(), f"{name} has a gradient of zero everywhere: nothing of it reaches the output"


def test_the_seed_decides_the_weights_and_the_first_steps(model, case):
    def after_a_step(seed):
        module = make(model, case, seed=seed)
        step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
        return module.network.state_dict()

    first, again, other = (after_a_step(seed) for seed in (0, 0, 1))
    for key in first:
        assert torch.equal(first[key], again[key]), f"{key}: not from PyTorch's random numbers alone"
    assert not all(torch.equal(first[key], other[key]) for key in first), "the weights don't depend on the seed"


def test_it_learns_a_batch_by_heart(module, case):
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    first = step(module, case.batch, optimizer)
    least = 0.4 if case.facts.num_classes and case.task == "classification" else 0.8
    learned = any(step(module, case.batch, optimizer) < least * first for _ in range(100))
    assert learned, "100 steps on ten samples hardly lower the loss: is it all connected?"


def test_a_checkpoint_holds_all_of_it(model, case, module):
    step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
    file = io.BytesIO()
    torch.save(module.network.state_dict(), file)
    file.seek(0)
    other = make(model, case, seed=1)
    other.network.load_state_dict(torch.load(file, weights_only=True))
    expected, found = (each.eval().step(case.batch).predictions for each in (module, other))
    assert torch.equal(expected, found), "something is neither a parameter nor a buffer: use register_buffer"


def test_it_trains_in_bf16(module, case):
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.step(case.batch).loss
    loss.backward()
    assert loss.isfinite()


def test_it_can_be_exported_with_any_number_of_samples(module, case):
    network, inputs = module.network.eval(), case.batch[0]
    program = torch.export.export(
        network, (inputs[:2],), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False
    )
    torch.testing.assert_close(program.module()(inputs), network(inputs))


ARGUMENTS = [
    (model, key)
    for model in MODELS
    for key, value in flatten(yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text()))
    if isinstance(value, int | float | list) and not isinstance(value, bool)
]
NONSENSE = ("0", "-1", "1.5", "nan", "inf", "true", "null", "word", "[]", "[0]", "[1.5]", "[word]")


@pytest.mark.parametrize(("model", "key"), ARGUMENTS)
def test_nonsense_is_refused_by_its_name_or_trains(model, key):
    case, name = suited(model)[0], key.rpartition(".")[2]
    for value in NONSENSE:
        refusal = ""
        try:
            module = make(model, case, overrides=[f"model.{key}={value}"])
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert refusal.startswith(f"model: {name}="), f"{key}={value} is refused by: {refusal}"
            assert "must be" in refusal, f"{key}={value} is refused by: {refusal}"
            continue
        loss = step(module, case.batch, torch.optim.SGD(module.parameters(), lr=0.001))
        assert loss.isfinite(), f"{key}={value} is taken, and its loss is {loss}"


@pytest.mark.slow
def test_it_takes_a_step_compiled(model, case, monkeypatch):
    # C++ of a large one takes minutes: it is traced and differentiated, but no C++ is made of that.
    if len([*make(model, case).modules()]) > 10:
        compile_it = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
        monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    plain, compiled = (make(model, case, overrides=[f"compile={on}"]).eval() for on in ("false", "true"))
    assert list(plain.state_dict()) == list(compiled.state_dict())
    loss = compiled.step(case.batch).loss
    loss.backward()
    torch.testing.assert_close(loss, plain.step(case.batch).loss, rtol=1e-4, atol=1e-4)
