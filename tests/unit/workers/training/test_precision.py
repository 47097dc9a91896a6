"""A run's placement follows its spec and the machine, and says why."""

from __future__ import annotations

import pytest
import torch

from workers.specs import ResourceSpec, RunSpec, TrainSpec
from workers.training.errors import DeviceError
from workers.training.precision import place


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_fp32_on_the_cpu() -> None:
    placement = place(RunSpec())
    assert placement.device.type == "cpu"
    assert (placement.precision, placement.reason) == ("fp32", "auto: fp32 on a CPU")


@pytest.mark.usefixtures("no_gpu")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="sees no CUDA device"):
        place(RunSpec(train=TrainSpec(device="cuda")))


@pytest.mark.parametrize(("threads", "cpus", "expected"), [(0, 1.0, 1), (0, 0.25, 1), (0, 3.5, 3), (2, 8.0, 2)])
def test_threads_are_those_asked_for_or_the_share_of_cpus(threads: int, cpus: float, expected: int) -> None:
    spec = RunSpec(train=TrainSpec(device="cpu", threads=threads), resources=ResourceSpec(cpus=cpus))
    assert place(spec).threads == expected


def test_bf16_on_a_cpu_is_autocast() -> None:
    placement = place(RunSpec(train=TrainSpec(device="cpu", precision="bf16")))
    with placement.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16


def test_the_facts_name_hardware_threads_and_precision() -> None:
    facts = place(RunSpec(train=TrainSpec(device="cpu", threads=2))).facts()
    assert facts["device"] == "cpu"
    assert facts["threads"] == 2
    assert facts["name"]
    assert (facts["precision"], facts["precision_reason"]) == ("fp32", "auto: fp32 on a CPU")
