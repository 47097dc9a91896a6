"""AdamW of rows on Triton's interpreter, against PyTorch's clipping and AdamW of each member alone."""

from __future__ import annotations

import pytest
import torch

from kernels.stacked_adamw import Hyper, Rows, Taken, derive, update

pytestmark = pytest.mark.interpreter

MEMBERS, WIDTH = 3, 2500
CUT = 1400  # the first columns are not decayed
BETAS = ((0.9, 0.999), (0.9, 0.95))
DECAYS, LIMITS, RATES = (0.0, 0.3), (1.0, float("inf"), 100.0), (1e-3, 1e-2, 3e-2)


def taken(half: torch.dtype | None) -> Taken:
    """Columns 8 to 20 are copied, 30 to 40 are rates."""
    kind, target, stride = (torch.zeros(WIDTH, dtype=torch.int32) for _ in range(3))
    kind[8:20], target[8:20], stride[8:20] = 1, torch.arange(12, dtype=torch.int32), 12
    kind[30:40], target[30:40], stride[30:40] = 2, 40 + torch.arange(10, dtype=torch.int32), 10
    return Taken(
        None if half is None else torch.zeros(MEMBERS, WIDTH, dtype=half), torch.zeros(80), kind, target, stride
    )


def check(made: Taken, parameters: torch.Tensor) -> None:
    if made.half is not None:
        assert torch.equal(made.half, parameters.to(made.half.dtype))
    assert torch.equal(made.apart[:36].view(MEMBERS, 12), parameters[:, 8:20])
    torch.testing.assert_close(made.apart[40:70].view(MEMBERS, 10), -parameters[:, 30:40].exp())
    assert made.apart[36:40].eq(0).all()


@pytest.mark.parametrize("half", [None, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_clipping_and_adamw_of_each_member(groups: int, half: torch.dtype | None) -> None:
    torch.manual_seed(1)
    start = torch.randn(MEMBERS, WIDTH)
    steps = torch.zeros(MEMBERS, groups)
    group = (torch.arange(WIDTH) >= CUT).int() * (groups - 1)
    rows = Rows(start.clone(), torch.zeros_like(start), torch.zeros_like(start), group, steps)
    betas = torch.tensor([BETAS[:groups]] * MEMBERS, dtype=torch.float64)
    settings = torch.tensor([[(1e-8, decay) for decay in DECAYS[-groups:]]] * MEMBERS)
    hyper = Hyper(betas, settings, torch.tensor(LIMITS))
    rates = torch.tensor([[rate] * groups for rate in RATES])
    cuts = [slice(0, CUT), slice(CUT, WIDTH)] if groups == 2 else [slice(0, WIDTH)]
    parameters = [[row[cut].clone().requires_grad_() for cut in cuts] for row in start]
    optimizers = [
        torch.optim.AdamW(
            [
                {"params": [one], "betas": BETAS[index], "weight_decay": DECAYS[-groups:][index]}
                for index, one in enumerate(own)
            ],
            lr=rate,
        )
        for own, rate in zip(parameters, RATES, strict=True)
    ]
    made = taken(half)
    for _ in range(3):
        gradients = torch.randn(MEMBERS, WIDTH)
        norms = update(rows, gradients, hyper, rates, made)
        for place, (own, optimizer) in enumerate(zip(parameters, optimizers, strict=True)):
            for one, cut in zip(own, cuts, strict=True):
                one.grad = gradients[place, cut].clone()
            norm = torch.nn.utils.clip_grad_norm_(own, LIMITS[place])
            torch.testing.assert_close(norms[place], norm)
            optimizer.step()
            torch.testing.assert_close(rows.parameters[place], torch.cat(own).detach(), rtol=1e-5, atol=1e-6)
        check(made, rows.parameters)
    assert steps.eq(3).all()


def test_what_a_first_step_takes() -> None:
    made, parameters = taken(torch.float16), torch.randn(MEMBERS, WIDTH)
    derive(parameters, made)
    check(made, parameters)
