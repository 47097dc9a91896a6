"""Reproducibility: which random numbers a run uses, and torch's switches while it runs.

The run's seed is split by purpose, so that nothing that consumes random numbers can shift another's:

| purpose | stream |
| --- | --- |
| `("init",)` | the parameters, drawn on the CPU whatever the device |
| `("data", step)` | the batch of one step: it depends on nothing else, so resume and prefetch cannot change it |
| `("dropout",)` | torch's global generators during training; their state is part of a checkpoint |

Held-out data comes from `EVALUATION_SEED`, the same for every run, so that runs differ in training alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import torch

from workers.errors import CheckpointError
from workers.training.precision import Placement

EVALUATION_SEED = 0x6D616D62  # "mamb"; any constant does


class RandomState(TypedDict):
    """State of torch's global generators, in hexadecimal. `cuda` is empty for a run on the CPU."""

    cpu: str
    cuda: str


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of a run: SHA-256 over the run's seed and the purpose's parts.

    The CPU generator (mt19937) uses the low 32 bits of it.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_global(seed: int, purpose: str) -> None:
    """Seed torch's global generators, CPU and (where in use) CUDA, for one purpose of the run."""
    torch.manual_seed(derive_seed(seed, purpose))


def capture_random_state(device: torch.device) -> RandomState:
    """Return the state of the global generators that training on `device` draws from."""
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else ""
    return {"cpu": torch.get_rng_state().numpy().tobytes().hex(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the global generators to a captured state. A checkpoint from another kind of device keeps the seeded one.

    Raises:
        CheckpointError: the state is not one that this version of torch accepts.
    """
    try:
        torch.set_rng_state(_tensor(state["cpu"]))
        if device.type == "cuda" and state["cuda"]:
            torch.cuda.set_rng_state(_tensor(state["cuda"]), device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint's random state cannot be restored: {error}") from error


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


@contextlib.contextmanager
def reproducible(placement: Placement) -> Iterator[None]:
    """Run a block under this package's numeric policy and put the process's own settings back afterwards.

    Inside: the placement's thread count, full fp32 matrix products, deterministic algorithms, and cuDNN without
    autotuning. On a CPU an operation without a deterministic form is an error; on CUDA it is a warning in the run's
    log, since some of PyTorch's own operations have none there. Fused attention, which has one, takes it all the same
    (`workers.models.strict`). Memory of fresh tensors is not filled (torch's default under deterministic algorithms),
    which would cost a pass over every output.
    """
    cuda = placement.device.type == "cuda"
    if (
        cuda
    ):  # read when cuBLAS is first used; without it cuBLAS may pick its workspace, and so its order of sums, freely
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    switches: Any = torch.utils.deterministic  # its attribute is made at run time, unseen by type checkers
    threads = torch.get_num_threads()
    matmul = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = switches.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    devices = [placement.device] if cuda else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(placement.threads)
            torch.set_float32_matmul_precision("highest")
            torch.use_deterministic_algorithms(True, warn_only=cuda)
            switches.fill_uninitialized_memory = False
            torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(matmul)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            switches.fill_uninitialized_memory = fill
            torch.backends.cudnn.benchmark = benchmark
