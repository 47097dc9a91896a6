"""What lies between two layers on Triton's interpreter: one kernel each way, against the formula and autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import stacked_products
from kernels.stacked_products import Back, Before, Kept, seam, seam_gradient
from workers.models import build_model
from workers.specs import ModelSpec
from workers.training.stacked import Stack
from workers.training.stacked_projections import StackedProjections, TakenOver

pytestmark = pytest.mark.interpreter

MEMBERS, ROWS, EPS = 3, 70, 1e-3


def laid(rows: int, columns: int, *, side_by_side: bool) -> Tensor:
    """Return fp16 numbers (members, rows, columns) that lie in memory as (members, rows) or as (rows, members)."""
    shape = (rows, MEMBERS, columns) if side_by_side else (MEMBERS, rows, columns)
    values = torch.randint(-4, 5, shape).half()  # sums of products are exact
    return values.transpose(0, 1) if side_by_side else values


def formula(residual: Tensor, before: Before | None, norm: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the stream and the products, in float64 but for what is rounded on its way: the norm's input, not its result."""
    stream = residual
    if before is not None:
        stream = residual + before.rows @ before.weight.transpose(1, 2)
    normed = stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + EPS) * norm[:, None]
    return (stream, *(normed @ weight.transpose(1, 2) for weight in weights))


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize(("width", "inputs", "sizes"), [(64, 128, (128, 128)), (20, 50, (7,)), (5, 3, (40, 16))])
def test_a_seam_and_the_way_back(
    width: int, inputs: int, sizes: tuple[int, ...], in_front: bool, side_by_side: bool
) -> None:
    torch.manual_seed(0)
    residual = torch.randn(MEMBERS, ROWS, width)
    norm = torch.randn(MEMBERS, width + 3)[:, :width]
    weights = [torch.randint(-1, 2, (MEMBERS, size, width)).half() for size in sizes]
    before = None
    if in_front:
        before = Before(
            laid(ROWS, inputs, side_by_side=side_by_side), torch.randint(-1, 2, (MEMBERS, width, inputs)).half()
        )
    outs = [laid(ROWS, size, side_by_side=side_by_side) for size in sizes]
    stream = torch.full_like(residual, torch.nan)
    kept = Kept(torch.full_like(residual, torch.nan, dtype=torch.half), torch.full((MEMBERS, ROWS), torch.nan))
    seam(residual, before, norm, EPS, weights, outs, stream if in_front else None, kept)

    leaves = [one.double().requires_grad_() for one in (residual, norm)]
    fine = None if before is None else Before(*(one.double().requires_grad_() for one in before))
    expected, *products = formula(leaves[0], fine, leaves[1], [weight.double() for weight in weights])
    if in_front:
        assert torch.allclose(stream.double(), expected, rtol=1e-6, atol=1e-6)
    normed = F.rms_norm(expected, (width,), eps=EPS) * norm.double()[:, None]
    assert torch.allclose(kept.normed.double(), normed, rtol=2**-10, atol=1e-6)
    for out, weight in zip(outs, weights, strict=True):  # products of what was rounded are rounded once
        exact = kept.normed.double() @ weight.double().transpose(1, 2)
        assert torch.allclose(out.double(), exact, rtol=2**-10, atol=1e-5)

    slopes = [laid(ROWS, size, side_by_side=side_by_side) for size in sizes]
    dstream = torch.randn_like(residual)
    dresidual = torch.full_like(residual, torch.nan)
    back = None
    if before is not None:
        dadded = torch.full((MEMBERS, ROWS, width), torch.nan).half()
        back = Back(before.weight, dadded, torch.full_like(before.rows, torch.nan))
    shares = seam_gradient(slopes, weights, dstream, stream if in_front else residual, kept.rstd, norm, back, dresidual)
    torch.autograd.backward([expected, *products], [dstream.double(), *(slope.double() for slope in slopes)])
    # in front of the norm its gradient is rounded where the product in front has its result rounded
    relative, absolute = (4e-3, 2e-2) if in_front else (1e-5, 1e-4)
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    assert torch.allclose(dresidual.double(), leaves[0].grad, rtol=relative, atol=absolute)
    assert torch.allclose(shares.sum(0).double(), leaves[1].grad, rtol=relative, atol=absolute)
    if back is not None:
        assert torch.equal(back.dadded, dresidual.half())
        exact = back.dadded.double() @ back.weight.double()
        assert torch.allclose(back.drows.double(), exact, rtol=2**-10, atol=1e-4)


def test_a_member_has_the_same_bits_in_whatever_company() -> None:
    residual, weights = torch.randn(MEMBERS, ROWS, 20), [torch.randn(MEMBERS, 7, 20).half()]
    norm = torch.randn(MEMBERS, 20)
    before = Before(laid(ROWS, 50, side_by_side=True), torch.randn(MEMBERS, 20, 50).half())
    outs = torch.empty(MEMBERS, ROWS, 7).half(), torch.empty(1, ROWS, 7).half()
    for out, own in zip(outs, (slice(None), slice(1, 2)), strict=True):
        front, stream = Before(before.rows[own], before.weight[own]), torch.empty_like(residual[own])
        seam(residual[own], front, norm[own], EPS, [weights[0][own]], [out], stream, None)
    assert torch.equal(outs[0][1:2], outs[1])


def gradients(spec: ModelSpec, tokens: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of an ensemble under autocast to fp16, and the gradients of all its parameters.

    Without a way back the logits are the same, up to how they are rounded.
    """
    models = []
    for seed in range(len(tokens)):
        torch.manual_seed(seed)
        models.append(build_model(spec, 7))
    stack = Stack(models, [[name for name, _ in models[0].named_parameters()]])
    projections = StackedProjections(stack, tokens.device, None)
    with projections.step():
        with torch.autocast("cpu", dtype=torch.half), TakenOver(projections, stack.feeding_channels()):
            logits = stack.forward(tokens, projections.in_one_piece)
            with torch.no_grad():
                again = stack.forward(tokens, projections.in_one_piece)
        assert torch.allclose(again, logits, rtol=1e-2, atol=1e-3)
        torch.autograd.backward(logits.float(), slopes)
    return logits.detach().float(), stack.gradients()


@pytest.mark.parametrize("gate", [False, True])
def test_an_ensemble_s_layers_are_joined(gate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(d_model=8, n_layer=2, d_state=3, dt_rank=3, gate=gate)
    tokens = torch.randint(7, (2, 1, 6))
    slopes = torch.randn(2, 1, 6, 7)
    joined = gradients(spec, tokens, slopes)
    monkeypatch.setattr(stacked_products, "seam", None)  # whoever still asks for it fails
    with pytest.raises(TypeError):
        gradients(spec, tokens, slopes)
    monkeypatch.setattr(stacked_products, "serves_seam", lambda *_: False)
    for ours, expected in zip(joined, gradients(spec, tokens, slopes), strict=True):
        assert (ours - expected).norm() < 2e-3 * expected.norm()  # both round what lies between layers to 11 bits


def test_what_one_card_does_not_run_at_once_goes_its_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(d_model=8, n_layer=1, d_state=3)
    tokens, slopes = torch.randint(7, (2, 1, 3)), torch.randn(2, 1, 3, 7)
    joined = gradients(spec, tokens, slopes)[0]
    monkeypatch.setattr(stacked_products, "seam_gradient", None)
    monkeypatch.setattr(stacked_products, "MAX_SEAM_ROWS", 5)
    logits, _ = gradients(spec, tokens, slopes)
    assert torch.allclose(logits, joined, rtol=2e-2, atol=1e-2)
    monkeypatch.setattr(stacked_products, "MAX_SEAM_ROWS", 6)
    with pytest.raises(TypeError):
        gradients(spec, tokens, slopes)


@pytest.mark.parametrize("changed", [{"norm": "layer"}, {"mlp_ratio": 2}, {"mixer": "h3"}, {"d_model": 72}])
def test_layers_that_do_not_fit_go_their_usual_way(changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_products, "seam", None)
    spec = ModelSpec.model_validate({"d_model": 8, "n_layer": 1, "d_state": 3, **changed})
    logits, found = gradients(spec, torch.randint(7, (2, 1, 3)), torch.randn(2, 1, 3, 7))
    assert logits.isfinite().all()
    assert found.isfinite().all()
