"""What a run uses of its NVIDIA GPUs, asked of the driver through NVML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from workers.jobs.errors import JobError

MIB = 2**20


class NoGpuError(JobError):
    """There is no GPU to look at; the message is the reason for the record."""


class GpuMeter:
    """Reads the GPUs that this process may use, in CUDA's order: gpu0 is what the run calls cuda:0.

    NVML counts devices by their place on the bus, and CUDA by speed unless CUDA_DEVICE_ORDER says otherwise: on a machine
    with unlike cards, and without CUDA_DEVICE_ORDER=PCI_BUS_ID, indices may mean different ones.

    | metric | meaning |
    | --- | --- |
    | `system/gpu0_percent` | share of the driver's last period (1/6 to 1 s) in which any kernel ran |
    | `system/gpu0_memory_mb` | memory in use on the device in MiB, that of other processes included |
    | `system/gpu0_power_w` | power draw of the board |
    | `system/gpu0_temperature_c` | temperature of the chip |

    Args:
        environment: CUDA_VISIBLE_DEVICES in it says which devices count.

    Raises:
        NoGpuError: no driver, no binding, or no device.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        try:
            import pynvml
        except ModuleNotFoundError as error:
            raise NoGpuError("nvidia-ml-py is not installed here") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._devices = self._open(os.environ if environment is None else environment)
        except pynvml.NVMLError as error:
            raise NoGpuError(f"no NVIDIA driver answers: {error}") from error
        if not self._devices:
            raise NoGpuError("no GPU is visible to this process")
        self.names = [_text(pynvml.nvmlDeviceGetName(device)) for device in self._devices]
        self.silent: dict[str, str] = {}  # metrics that a device does not offer, and what the driver says

    def read(self) -> dict[str, float]:
        """Return the metrics as of now, without those that a device does not offer."""
        values: dict[str, float] = {}
        for index, device in enumerate(self._devices):
            for name, ask in self._questions(device).items():
                key = f"system/gpu{index}_{name}"
                if key in self.silent:
                    continue
                try:
                    values[key] = float(ask())
                except self._nvml.NVMLError as error:
                    self.silent[key] = str(error)  # a partition of a GPU has neither utilisation nor power of its own
        return values

    def _questions(self, device: Any) -> dict[str, Callable[[], float]]:
        nvml = self._nvml
        return {
            "percent": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
            "memory_mb": lambda: nvml.nvmlDeviceGetMemoryInfo(device).used / MIB,
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000.0,
            "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
        }

    def _open(self, environment: Mapping[str, str]) -> list[Any]:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        devices = []
        for word in (part.strip() for part in visible.split(",")):
            if word in ("", "-1"):
                break  # CUDA too ignores what comes after a device that is none
            by_index = word.isdecimal()
            devices.append(
                self._nvml.nvmlDeviceGetHandleByIndex(int(word))
                if by_index
                else self._nvml.nvmlDeviceGetHandleByUUID(word)
            )
        return devices


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
