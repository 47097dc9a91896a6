"""What was measured on: hardware, versions and commit."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def hardware(device: str) -> dict[str, Any]:
    """The device's name and size."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {"gpu": properties.name, "memory_gb": round(properties.total_memory / 1e9)}
    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """Of everything that decides a speed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "mamba_ssm", "causal_conv1d"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> str:
    """The checkout's commit, marked when it has changes; "unknown" outside a checkout."""
    try:
        command = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
