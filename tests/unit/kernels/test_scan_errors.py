"""The scan's errors name the argument, what was expected and what came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.common import KernelError, ShapeError, UnsupportedError
from kernels.selective_scan import selective_scan


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": zeros(2, 4)}, ShapeError, r"x must have shape \(batch, seqlen, d_inner\), got \(2, 4\)"),
        ({"x": zeros(2, 0, 4), "dt": zeros(4)}, ShapeError, r"x must have seqlen >= 1, got seqlen=0"),
        ({"x": zeros(2, 5, 4).int()}, UnsupportedError, r"x must have dtype float16 or .*, got int32"),
        ({"x": zeros(2, 5, 4) + 0j}, UnsupportedError, r"x must have dtype .*, got complex64"),
        (
            {"dt": zeros(2, 4)},
            ShapeError,
            r"dt must have shape \(batch, seqlen, d_inner\) or \(d_inner,\), got \(2, 4\)",
        ),
        ({"dt": zeros(2, 5, 3)}, ShapeError, r"dt must have shape \(batch=2, seqlen=5, d_inner=4\), got \(2, 5, 3\)"),
        ({"dt": zeros(5)}, ShapeError, r"dt must have shape \(d_inner=4\), got \(5,\)"),
        ({"A": zeros(4)}, ShapeError, r"A must have shape \(d_inner, d_state\), got \(4,\)"),
        ({"A": zeros(3, 3)}, ShapeError, r"A must have shape \(d_inner=4, d_state=3\), got \(3, 3\)"),
        ({"A": zeros(4, 0)}, ShapeError, r"A must have d_state >= 1, got d_state=0"),
        (
            {"B": zeros(3)},
            ShapeError,
            r"B must have shape \(batch, seqlen, d_state\) or \(batch, .*\) or \(d_inner, d_state\)",
        ),
        ({"B": zeros(2, 5, 2)}, ShapeError, r"B must have shape \(batch=2, seqlen=5, d_state=3\), got \(2, 5, 2\)"),
        ({"C": zeros(3, 4)}, ShapeError, r"C must have shape \(d_inner=4, d_state=3\), got \(3, 4\)"),
        ({"C": zeros(2, 5, 3, 3)}, ShapeError, r"C must have ngroups that divide d_inner=4, got ngroups=3"),
        ({"C": zeros(2, 4, 2, 3)}, ShapeError, r"C must have shape \(batch=2, seqlen=5, ngroups=2, d_state=3\)"),
        ({"B": zeros(2, 5, 3) + 0j}, UnsupportedError, r"B must have dtype float16 or .* or float64, got complex64"),
        ({"D": zeros(3)}, ShapeError, r"D must have shape \(d_inner=4\), got \(3,\)"),
        ({"z": zeros(2, 5)}, ShapeError, r"z must have shape \(batch=2, seqlen=5, d_inner=4\), got \(2, 5\)"),
        ({"dt_bias": zeros(4).int()}, UnsupportedError, r"dt_bias must have dtype .*, got int32"),
        (
            {"initial_state": zeros(2, 3, 4)},
            ShapeError,
            r"initial_state must have shape \(batch=2, d_inner=4, d_state=3\)",
        ),
        ({"initial_state": zeros(2, 4, 3) + 0j}, UnsupportedError, r"initial_state must have dtype .*, got complex64"),
        ({"reset": zeros(2, 5)}, UnsupportedError, r"reset must have dtype bool, got float32"),
        ({"reset": zeros(5).bool()}, ShapeError, r"reset must have shape \(batch=2, seqlen=5\), got \(5,\)"),
        (
            {"A": torch.zeros(4, 3, device="meta")},
            UnsupportedError,
            r"A is on meta but x is on cpu; move all arguments",
        ),
        ({"z": torch.zeros(2, 5, 4, device="meta")}, UnsupportedError, r"z is on meta but x is on cpu"),
        ({"implementation": "torch"}, UnsupportedError, r"implementation must be one of auto, .*, got 'torch'"),
    ],
)
def test_errors_name_the_argument(changed: dict[str, Any], error: type[KernelError], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": zeros(2, 5, 4),
        "dt": zeros(2, 5, 4),
        "A": zeros(4, 3),
        "B": zeros(2, 5, 3),
        "C": zeros(2, 5, 3),
    }
    with pytest.raises(error, match=f"selective_scan: {message}"):
        selective_scan(**{**arguments, **changed})
