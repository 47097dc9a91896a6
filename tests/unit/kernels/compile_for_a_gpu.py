"""A process that compiles kernels of the scan for an H100, where there is none.

It prints a line a kernel: its name, how many exponentials its code has, and how many barriers behind a predicate.

The interpreter runs Python, so what only Triton's compiler refuses (a name that changes its type within a loop) passes there.
"""

import re
import sys
import tempfile
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from kernels.common import choice
from kernels.selective_scan import selective_scan
from kernels.selective_scan.triton_launch import Arguments, scan_forward
from kernels.selective_scan.triton_table import WORDS


class _Elsewhere:
    """A driver for a card that is not there: the compiler asks it what to compile for, and nothing is loaded or launched."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return (9, device)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, name: str) -> str:
        return name


def _scan_by_turns() -> None:
    """Whole tiles, as Mamba's layers have them where channels are few."""
    rows, A = torch.zeros(1, 256, 16, dtype=torch.bfloat16), -torch.ones(16, 16)
    weights, none = torch.zeros(16), None
    arguments = Arguments(rows, rows, A, rows, rows, weights, rows, weights, True, none, none)
    scan_forward(arguments, save=True, config=WORDS["few"])


def main() -> int:
    compiled: list[str] = []
    launch, serve = jit.JITFunction.run, choice._resolve

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        result = launch(self, *arguments, grid=grid, warmup=True, **options)
        assert result.asm["cubin"]
        code = result.asm["ptx"]
        guarded = re.findall(r"@!?%?\w+\s+bar\.", code)
        compiled.append(f"{self.fn.__name__} {code.count('ex2.')} {len(guarded)}")
        return result

    jit.JITFunction.run = compile_only
    choice._triton_device = lambda device: ""  # type: ignore[assignment]
    choice._resolve = lambda op, wanted, plain, device, refusal: serve(op, wanted, plain, "cuda", refusal)  # type: ignore[assignment]
    driver.set_active(_Elsewhere())
    with tempfile.TemporaryDirectory() as cache:
        knobs.cache.dir = cache
        batch, seqlen, d_inner, d_state = 2, 40, 32, 4
        x = torch.zeros(batch, seqlen, d_inner, requires_grad=True)  # so that checkpoints are saved for a backward pass
        dt = torch.ones(batch, seqlen, d_inner)
        A, B = -torch.ones(d_inner, d_state), torch.zeros(batch, seqlen, 1, d_state)
        reset = torch.zeros(batch, seqlen, dtype=torch.bool)
        selective_scan(x, dt, A, B, B, reset=reset, implementation="triton")
        _scan_by_turns()
    sys.stdout.write("\n".join(compiled))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
