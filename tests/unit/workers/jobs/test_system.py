"""What a run uses of its machine: real readings of this one, and a driver that a test makes up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workers.jobs import system
from workers.jobs.attempt import AttemptSpec
from workers.jobs.sink import SpoolSink
from workers.jobs.spool import Batch, parse, read_from
from workers.jobs.system import Sampler, interval_of, sampling
from workers.jobs.system_gpu import GpuMeter, NoGpuError
from workers.jobs.system_host import HostMeter
from workers.jobs.worker import run_attempt

HOST = {"system/cpu_percent", "system/memory_mb", "system/host_cpu_percent", "system/host_memory_percent"}


class NVMLError(Exception):
    """As the driver's binding raises it."""


class FakeNvml(types.ModuleType):
    """A machine with four GPUs; the last one, a partition, has neither utilisation nor power."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.driver = True
        self.utilisation = 70

    def nvmlInit(self) -> None:  # noqa: N802 - the binding's name
        if not self.driver:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if not 0 <= index < 4:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"GPU-two": 2, "MIG-three": 3}[uuid]

    def nvmlDeviceGetName(self, device: int) -> bytes:  # noqa: N802
        return f"H{device}".encode()

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:  # noqa: N802
        self._whole(device)
        return types.SimpleNamespace(gpu=self.utilisation + device)

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:  # noqa: N802
        return types.SimpleNamespace(used=(1 + device) * 2**30)

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:  # noqa: N802
        self._whole(device)
        return 350_500

    def nvmlDeviceGetTemperature(self, device: int, sensor: int) -> int:  # noqa: N802
        return 40 + device

    def _whole(self, device: int) -> None:
        if device == 3:
            raise NVMLError("Not Supported")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    made = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SpoolSink]:
    made = SpoolSink(tmp_path / "spool.jsonl")
    yield made
    made.close()


@pytest.fixture
def spooled(sink: SpoolSink, tmp_path: Path) -> Callable[[], Batch]:
    """Return what reads the spool as it is now."""

    def read() -> Batch:
        sink.flush()
        return parse(read_from(tmp_path / "spool.jsonl", 0)[0])

    return read


def attempt(directory: Path, every_s: object = 0.01, gpus: float = 0.0, trial: str = "a:b") -> AttemptSpec:
    spec = {"resources": {"sample_every_s": every_s}}
    return AttemptSpec("r1", 1, str(directory), str(directory), spec, gpus=gpus, trial=trial)


def test_the_host_is_read_with_everything_that_the_process_started() -> None:
    meter = HostMeter()
    code = "import time; held = bytearray(120 * 2**20)\nwhile time.process_time() < 0.3: pass\nprint('up', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        values = meter.read()
        own = psutil.Process().memory_info().rss / 2**20
        child.stdin.close()
    assert set(values) == HOST
    assert values["system/memory_mb"] > own + 100
    assert values["system/cpu_percent"] > 0
    assert 0 <= values["system/host_cpu_percent"] <= 100
    assert 0 < values["system/host_memory_percent"] <= 100


def test_the_time_of_a_child_that_has_ended_counts() -> None:
    meter = HostMeter()
    began = os.times()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    used, _ = meter._tree()
    assert used - meter._used >= 0.25, (began, os.times())


def test_gpus_are_numbered_as_the_run_sees_them(nvml: FakeNvml) -> None:
    meter = GpuMeter({"CUDA_VISIBLE_DEVICES": "GPU-two, 0"})
    assert meter.names == ["H2", "H0"]
    assert meter.read() == {
        "system/gpu0_percent": 72.0, "system/gpu0_memory_mb": 3072.0, "system/gpu0_power_w": 350.5, "system/gpu0_temperature_c": 42.0,
        "system/gpu1_percent": 70.0, "system/gpu1_memory_mb": 1024.0, "system/gpu1_power_w": 350.5, "system/gpu1_temperature_c": 40.0,
    }  # fmt: skip


def test_without_a_choice_all_gpus_count(nvml: FakeNvml) -> None:
    assert GpuMeter({}).names == ["H0", "H1", "H2", "H3"]


def test_what_a_device_does_not_offer_is_left_out_and_named(nvml: FakeNvml) -> None:
    meter = GpuMeter({"CUDA_VISIBLE_DEVICES": "MIG-three"})
    assert meter.read() == {"system/gpu0_memory_mb": 4096.0, "system/gpu0_temperature_c": 43.0}
    assert meter.silent == {"system/gpu0_percent": "Not Supported", "system/gpu0_power_w": "Not Supported"}


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_a_process_that_may_see_no_gpu_has_none(nvml: FakeNvml, visible: str) -> None:
    with pytest.raises(NoGpuError, match="no GPU is visible"):
        GpuMeter({"CUDA_VISIBLE_DEVICES": visible})


def test_no_driver_and_no_binding_are_told_apart(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.driver = False
    with pytest.raises(NoGpuError, match="no NVIDIA driver answers: Driver Not Loaded"):
        GpuMeter({})
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuError, match="nvidia-ml-py is not installed"):
        GpuMeter({})


def test_looks_go_to_the_newest_step_and_are_averaged_there(
    nvml: FakeNvml, sink: SpoolSink, spooled: Callable[[], Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    sampler = Sampler([sink], gpus=1.0)
    sampler.open()
    sampler.look()  # training has logged nothing: there is no step to put it at
    sink.log(10, {"train/loss": 1.0})
    sampler.look()
    nvml.utilisation = 90
    sampler.look()
    sink.log(20, {"train/loss": 0.5})
    sampler.look()
    batch = spooled()
    key = "system/gpu0_percent"
    assert [(line.step, line.values[key]) for line in batch.metrics if key in line.values] == [
        (10, 71.0),
        (10, 81.0),
        (20, 91.0),
    ]
    (note,) = [note for note in batch.notes if note.name == "system"]
    assert note.payload["gpu"] == "H1"
    assert note.payload["looked at"] == sorted(
        f"system/gpu0_{name}" for name in ("memory_mb", "percent", "power_w", "temperature_c")
    )


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [(0.0, "none: this run was given no GPU"), (1.0, "none: no NVIDIA driver answers: Driver Not Loaded")],
)
def test_why_there_is_no_gpu_is_noted(
    nvml: FakeNvml, sink: SpoolSink, spooled: Callable[[], Batch], gpus: float, reason: str
) -> None:
    nvml.driver = False
    sampler = Sampler([sink], gpus=gpus)
    sampler.open()
    sink.log(1, {"train/loss": 1.0})
    sampler.look()
    batch = spooled()
    assert batch.notes[0].payload["gpu"] == reason
    assert set(batch.metrics[-1].values) == HOST


def test_runs_of_one_process_share_what_it_uses(tmp_path: Path) -> None:
    sinks = [SpoolSink(tmp_path / f"{name}.jsonl") for name in "ab"]
    sampler = Sampler(sinks, gpus=0.0)
    sampler.open()
    sinks[0].log(3, {"train/loss": 1.0})
    sinks[1].log(7, {"train/loss": 1.0})
    sampler.look()
    for each in sinks:
        each.close()
    steps = [[line.step for line in parse(read_from(tmp_path / f"{name}.jsonl", 0)[0]).metrics] for name in "ab"]
    assert steps == [[3, 3], [7, 7]]


def trial(_spec: object, context: Any) -> Any:
    """A trial that logs one row; the rest of its time is the sampler's."""
    context.sink.log(1, {"train/loss": 1.0})
    return types.SimpleNamespace(
        status="completed", reason="steps", step=1, metrics={}, resumed_from=0, train_seconds=0.0, checkpoint=None
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name under which a worker finds this module's trial."""
    module = types.ModuleType("trials_of_the_system")
    module.trial = trial  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:trial"


def test_a_run_that_is_over_at_once_still_has_its_row(tmp_path: Path, here: str) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    assert run_attempt(attempt(tmp_path, 3600.0, trial=here), sink, lambda: False).status == "completed"
    batch = parse(read_from(tmp_path / "spool.jsonl", 0)[0])
    assert [(line.step, set(line.values)) for line in batch.metrics] == [(1, {"train/loss"}), (1, HOST)]
    assert not [thread for thread in threading.enumerate() if thread.name == "system"]


def test_it_can_be_turned_off(tmp_path: Path, here: str) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    run_attempt(attempt(tmp_path, 0, trial=here), sink, lambda: False)
    batch = parse(read_from(tmp_path / "spool.jsonl", 0)[0])
    assert [set(line.values) for line in batch.metrics] == [{"train/loss"}]
    assert batch.notes == []


def test_a_system_that_does_not_tell_ends_the_looks_and_nothing_else(
    tmp_path: Path, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_meter: HostMeter) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(HostMeter, "_tree", refuse)
    sink = SpoolSink(tmp_path / "spool.jsonl")
    assert run_attempt(attempt(tmp_path, trial=here), sink, lambda: False).status == "completed"
    (note,) = parse(read_from(tmp_path / "spool.jsonl", 0)[0]).notes
    assert "the system does not tell" in note.payload["ended"]


def test_a_driver_that_hangs_does_not_keep_a_run(
    tmp_path: Path, nvml: FakeNvml, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(nvml, "nvmlInit", goes_on.wait, raising=False)
    monkeypatch.setattr(system, "LAST_LOOK_S", 0.05)
    sink = SpoolSink(tmp_path / "spool.jsonl")
    try:
        assert run_attempt(attempt(tmp_path, gpus=1.0, trial=here), sink, lambda: False).status == "completed"
    finally:
        goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "system":
            thread.join(10)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({}, 5.0), ({"sample_every_s": 2}, 2.0), ({"sample_every_s": 0}, 0.0), ({"sample_every_s": "soon"}, 0.0)],
)
def test_the_interval_is_the_spec_s(resources: dict[str, Any], expected: float) -> None:
    assert interval_of({"resources": resources}) == expected


def test_with_the_block_a_thread_looks_again_and_again(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "spool.jsonl")
    enough = threading.Event()
    rows: list[int] = []
    log = sink.log_beside

    def count(subject: int | str, content: Any) -> None:
        log(subject, content)
        rows.append(1)
        if len(rows) > 3:
            enough.set()

    sink.log_beside = count  # type: ignore[method-assign]
    sink.log(4, {"train/loss": 1.0})
    with sampling(attempt(tmp_path, 0.01), sink):
        assert enough.wait(20)
    sink.close()
    metrics = parse(read_from(tmp_path / "spool.jsonl", 0)[0]).metrics
    assert {line.step for line in metrics} == {4}
    assert len(metrics) > 3
