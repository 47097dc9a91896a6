"""Number formats: what stays fp32 under bf16 autocast, and how far bf16 is from fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.models.cases import VOCAB, every_switch, make_spec, make_tokens
from workers.models import build_model
from workers.models.block import Block, LayerNorm, RMSNorm


def bf16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@every_switch
def test_parameters_gradients_and_the_stream_stay_fp32_under_bf16(switches: dict[str, Any]) -> None:
    model = build_model(make_spec(switches), VOCAB)
    streams: list[Tensor] = []
    inputs: list[Tensor] = []

    def watch_norm(module: nn.Module, arguments: object, output: tuple[Tensor, Tensor]) -> None:
        streams.append(output[1])

    def watch_mixer(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(output)

    for module in model.modules():
        if isinstance(module, (RMSNorm, LayerNorm)):
            module.register_forward_hook(watch_norm)
        if isinstance(module, Block):
            module.mixer.register_forward_hook(watch_mixer)
    with bf16():
        logits = model(make_tokens(2, 9))
    logits.float().square().mean().backward()
    assert {stream.dtype for stream in streams} == {torch.float32}
    assert {added.dtype for added in inputs} == {torch.bfloat16}
    assert logits.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name


@every_switch
def test_bf16_is_near_fp64(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, tokens = build_model(make_spec(switches), VOCAB), make_tokens(2, 30)
    with torch.no_grad():
        with bf16():
            rounded = model(tokens).double()
        exact = model.double()(tokens)
    # bf16 keeps 8 bits: 0.4 % an operation, and a dozen operations lie between tokens and logits.
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    "switches", [{}, {"a_init": "complex"}, {"inner": "s4d"}, {"mixer": "attention"}], ids=lambda s: str(s) or "mamba"
)
def test_states_work_under_autocast(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, tokens = build_model(make_spec(switches), VOCAB), make_tokens(2, 12)
    state = model.allocate_state(2)
    with torch.no_grad(), bf16():
        whole = model(tokens)
        pieces = [model(tokens[:, :5], state)]
        pieces += [model.step(tokens[:, place], state)[0][:, None] for place in range(5, 12)]
    for layer in state.layers:
        if "ssm" in layer:
            assert layer["ssm"].dtype in (torch.float32, torch.complex64)
    difference = torch.cat(pieces, dim=1).double() - whole.double()
    assert difference.norm() < 0.05 * whole.double().norm()
