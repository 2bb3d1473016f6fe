"""Which GPUs a sweep shares out: what the driver says, by an nvidia-smi made for the test."""

import importlib.metadata

import pytest
from omegaconf import OmegaConf

from leyden.config.errors import UserError
from leyden.sweep import worker
from leyden.sweep.worker import try_job

A, B = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-b1028956-cfa2-0990-bf4a-5da9abb51763"
PART, OTHER = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-GPU-b1028956-cfa2-0990-bf4a-5da9abb51763/2/0"
ONE = f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A})\n"
TWO = f"{ONE}GPU 1: NVIDIA A100-SXM4-40GB (UUID: {B})\n"
PARTS = f"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A})
  MIG 1g.5gb      Device  0: (UUID: {PART})
"""
MANY = "".join(f"GPU {n}: Tesla (UUID: GPU-{n:08x})\n" for n in range(12))


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Makes an nvidia-smi that does what is told; in `/dev` there are nodes of a card, or not."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "dev").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(worker, "DEVICE_FILES", tmp_path / "dev")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0")

    def make(script=None, *, has_nodes=True):
        for node in ("nvidia3", "nvidiactl") if has_nodes else ():
            (tmp_path / "dev" / node).touch()
        if script is not None:
            program = tmp_path / "bin" / "nvidia-smi"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    return make


def says(text):
    return f'[ "$*" = -L ] || exit 2\ncat <<END\n{text}END'


@pytest.mark.parametrize(
    ("told", "devices"),
    [
        (ONE, [A]),  # in a container, whose node is /dev/nvidia3
        (TWO, [A, B]),
        (MANY, [f"GPU-{n:08x}" for n in range(12)]),
        ("No devices found.\n", []),
    ],
)
def test_the_driver_tells_the_devices(driver, told, devices):
    driver(says(told))
    assert worker.visible_devices() == devices


WRONG = {
    "echo no driver >&2; exit 9": "exit status 9",
    "exec sleep 60": "timed out after 0.5 seconds",
    None: "No such file or directory: 'nvidia-smi'",
}


@pytest.mark.parametrize("script", WRONG)
def test_cards_that_the_driver_does_not_tell_of_are_refused_and_none_are_none(driver, monkeypatch, script):
    monkeypatch.setattr(worker, "TIMEOUT_S", 0.5)
    driver(script, has_nodes=False)
    assert worker.visible_devices() == []
    driver(script)
    with pytest.raises(UserError, match="can't be listed") as refused:
        worker.visible_devices()
    assert WRONG[script] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [
        ("2,5", ["2", "5"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,-1,1", ["0"]),
        (f"{A},{B}", [A, B]),
        (f"{PART}, {OTHER}", [PART, OTHER]),
    ],
)
def test_the_devices_that_a_user_chose_are_the_devices(driver, monkeypatch, chosen, devices):
    driver("exit 9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert worker.visible_devices() == devices


def test_parts_of_a_gpu_have_to_be_named(driver):
    driver(says(PARTS))
    with pytest.raises(UserError, match="GPUs are divided: set CUDA_VISIBLE_DEVICES to the MIG-"):
        worker.visible_devices()


def test_a_pytorch_without_cuda_has_none(driver, monkeypatch):
    driver(says(TWO))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert worker.visible_devices() == []


@pytest.mark.parametrize(("accelerator", "fails"), [("auto", True), ("gpu", True), ("cuda", True), ("cpu", False)])
def test_a_job_whose_gpu_can_not_be_used_does_not_train_on_the_cpu(monkeypatch, capfd, accelerator, fails):
    trained = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("leyden.sweep.worker.run_task", lambda task, config: trained.append("leyden.train"))
    error = try_job("leyden.train", OmegaConf.create({"trainer": {"accelerator": accelerator}}))
    assert str(error).startswith("UserError: CUDA_VISIBLE_DEVICES=3: PyTorch" if fails else "None")
    assert trained == ([] if fails else ["leyden.train"])
