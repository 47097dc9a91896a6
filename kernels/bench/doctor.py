"""A quick parity table of every op on this machine, for `mambalab doctor`."""

import torch

from kernels.bench.checks import check_entry
from kernels.bench.registry import ENTRIES
from kernels.bench.verify import ParityRow


def parity_table(device: str | None = None) -> list[ParityRow]:
    """Every op's small problems in fp32 and bf16, each output and gradient a row.

    On a GPU the Triton kernels are checked, elsewhere the plain forms. A kernel that cannot run at all is a row that did
    not pass and says why.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return [
        row
        for entry in ENTRIES
        for dtype in (torch.float32, torch.bfloat16)
        for row in check_entry(entry, dtype, device)
    ]
