"""Which GPUs a sweep divides among its jobs."""

import pytest
from omegaconf import OmegaConf

from leyden.sweep import worker
from leyden.sweep.worker import try_job


@pytest.mark.parametrize(
    ("chosen", "num", "devices"),
    [
        (None, 2, ["0", "1"]),
        (None, 0, []),
        ("", 0, []),
        ("-1", 0, []),
        ("2,5", 2, ["2", "5"]),
        ("0,-1,1", 1, ["0"]),  # CUDA reads it up to the first name that is none
        ("MIG-c6d4f1ef, GPU-b1028956", 2, ["MIG-c6d4f1ef", "GPU-b1028956"]),
    ],
)
def test_the_devices_are_those_that_pytorch_counts_by_the_names_that_a_user_chose(
    monkeypatch, chosen, num, devices
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: num)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert worker.visible_devices() == devices


@pytest.mark.parametrize(("accelerator", "fails"), [("auto", True), ("gpu", True), ("cuda", True), ("cpu", False)])
def test_a_job_whose_gpu_can_not_be_used_does_not_train_on_the_cpu(monkeypatch, capfd, accelerator, fails):
    trained = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("leyden.sweep.worker.run_task", lambda task, config: trained.append("leyden.train"))
    error = try_job("leyden.train", OmegaConf.create({"trainer": {"accelerator": accelerator}}))
    assert str(error).startswith("UserError: CUDA_VISIBLE_DEVICES=3: PyTorch" if fails else "None")
    assert trained == ([] if fails else ["leyden.train"])
