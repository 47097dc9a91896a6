"""Each layer against a plain loop written from its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.unit.workers.models.cases import make_model, make_spec, make_tokens
from workers.models.attention import AttentionMixer, sinusoids
from workers.models.block import Block
from workers.models.fft_convolution import fast_length, fft_convolution
from workers.models.mamba import MambaMixer
from workers.models.s4d import S4D
from workers.models.s6 import S6

S6_SWITCHES: list[dict[str, Any]] = [
    {},
    {"skip": False},
    {"gate": False},
    {"selective_dt": False},
    {"selective_b": False},
    {"selective_c": False},
    {"a_init": "complex"},
    {"a_init": "complex", "selective_b": False, "selective_c": False},
]


def inner_of(switches: dict[str, Any]) -> Any:
    """Return the first layer's inner layer of a float64 model."""
    block = make_model(switches).blocks[0]
    assert isinstance(block, Block)
    return block.mixer.inner if isinstance(block.mixer, MambaMixer) else block.mixer


def random_input(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 7, 32, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("switches", S6_SWITCHES, ids=str)
def test_s6_is_the_papers_recurrence(switches: dict[str, Any]) -> None:
    layer, (x, z) = inner_of(switches), random_input()
    assert isinstance(layer, S6)
    pieces = torch.zeros(2, 7, 0, dtype=x.dtype) if layer.x_proj is None else layer.x_proj(x)

    def take(width: int) -> Tensor:
        nonlocal pieces
        taken, pieces = pieces[..., :width], pieces[..., width:]
        return taken

    low = take(layer.dt_rank)
    widths = layer.d_state * (2 if layer.complex else 1)
    projected = [take(widths if constant is None else 0) for constant in (layer.B, layer.C)]
    dt = F.softplus(layer.dt_bias + (0 if layer.dt_weight is None else low @ layer.dt_weight.t())).expand(2, 7, 32)

    def states(values: Tensor) -> Tensor:
        return torch.complex(values[..., 0::2], values[..., 1::2]) if layer.complex else values

    B, C = (
        states(of_input)[:, :, None].expand(2, 7, 32, 4) if constant is None else states(constant).expand(2, 7, 32, 4)
        for of_input, constant in zip(projected, (layer.B, layer.C), strict=True)
    )
    A = layer.transition()
    h = torch.zeros(2, 32, 4, dtype=A.dtype)
    expected = torch.empty_like(x)
    for t in range(7):
        h = (dt[:, t, :, None] * A).exp() * h + (dt[:, t] * x[:, t])[..., None] * B[:, t]
        y = (C[:, t] * h).sum(-1)
        y = 2 * y.real if layer.complex else y
        expected[:, t] = (y + (0 if layer.D is None else layer.D * x[:, t])) * z[:, t] * torch.sigmoid(z[:, t])
    torch.testing.assert_close(layer(x, z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", ["lin", "inv", "real"])
@pytest.mark.parametrize("mode", ["convolution", "recurrence"])
def test_s4d_is_zero_order_hold_of_its_differential_equation(init: str, mode: str) -> None:
    """Abar and Bbar from a matrix exponential of the augmented system, which knows nothing of the closed form."""
    layer, (x, z) = inner_of({"inner": "s4d", "s4d_init": init, "s4d_mode": mode}), random_input()
    assert isinstance(layer, S4D)
    imaginary = torch.zeros_like(layer.A_log) if layer.A_imag is None else layer.A_imag
    A = torch.complex(-layer.A_log.exp(), imaginary)
    system = torch.stack((torch.stack((A, torch.ones_like(A)), -1), torch.zeros(*A.shape, 2)), -2)
    exponential = torch.linalg.matrix_exp(system * layer.log_dt.exp()[:, None, None, None])
    decay, drive = exponential[..., 0, 0], exponential[..., 0, 1]
    C = layer.C[..., 0] + 0j if layer.A_imag is None else torch.complex(layer.C[..., 0], layer.C[..., 1])
    factor = 1 if layer.A_imag is None else 2
    assert layer.D is not None
    h = torch.zeros(2, *A.shape, dtype=A.dtype)
    expected = torch.empty_like(x)
    for t in range(7):
        h = decay * h + drive * x[:, t, :, None]
        expected[:, t] = (factor * (C * h).sum(-1).real + layer.D * x[:, t]) * F.silu(z[:, t])
    torch.testing.assert_close(layer(x, z), expected, rtol=0, atol=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(seqlen=st.integers(1, 200), init=st.sampled_from(["lin", "inv", "real"]))
def test_the_convolution_and_the_recurrence_agree_at_every_length(seqlen: int, init: str) -> None:
    convolution = make_model({"inner": "s4d", "s4d_init": init, "n_layer": 1})
    recurrence = make_model({"inner": "s4d", "s4d_init": init, "s4d_mode": "recurrence", "n_layer": 1})
    tokens = make_tokens(1, seqlen)
    with torch.no_grad():
        torch.testing.assert_close(convolution(tokens), recurrence(tokens), rtol=0, atol=1e-11)


def test_fp32_keeps_small_steps_exact() -> None:
    """dt A of 1e-6 loses every digit of exp(dt A) - 1 in fp32 when computed as written."""
    layer = S4D(make_spec({"inner": "s4d", "dt_min": 1e-6, "dt_max": 2e-6}))
    _, drive = layer.discretise()
    exact = layer.double().discretise()[1]
    torch.testing.assert_close(drive.to(torch.complex128), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seqlen", [1, 2, 7])
def test_the_fft_convolution_has_the_right_value_and_gradients(seqlen: int) -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(2, seqlen, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, seqlen, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = [torch.stack([kernel[:, t - s] * u[:, s] for s in range(t + 1)]).sum(0) for t in range(seqlen)]
    expected = torch.stack(rows, dim=1)
    torch.testing.assert_close(fft_convolution(u, kernel), expected, rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(fft_convolution, (u, kernel))


@given(st.integers(1, 100_000))
def test_a_fast_length_is_the_least_with_small_factors(at_least: int) -> None:
    def smooth(number: int) -> bool:
        for factor in (2, 3, 5):
            while number % factor == 0:
                number //= factor
        return number == 1

    length = fast_length(at_least)
    assert length >= at_least
    assert length % 2 == 0
    assert smooth(length)
    assert not any(smooth(number) for number in range(at_least + at_least % 2, length, 2) if number)


@pytest.mark.parametrize("positions", ["none", "rope"])
def test_attention_is_a_softmax_over_the_past(positions: str) -> None:
    layer = inner_of({"mixer": "attention", "positions": positions})
    assert isinstance(layer, AttentionMixer)
    x = random_input()[0][..., :16]
    query, key, value = (part.unflatten(-1, (4, 4)) for part in layer.in_proj(x).chunk(3, dim=-1))

    def turned(vector: Tensor, place: int) -> Tensor:
        """Each pair is a complex number, turned by place * 10000^(-2 i / headdim)."""
        if positions == "none":
            return vector
        pairs = torch.complex(vector[..., :2], vector[..., 2:])
        angles = place * torch.tensor([1.0, 10000.0**-0.5], dtype=torch.float64)
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    expected = torch.empty_like(x)
    for t in range(7):
        scores = torch.stack(
            [(turned(query[:, t], t) * turned(key[:, past], past)).sum(-1) / 2 for past in range(t + 1)], dim=1
        )
        mixed = (scores.softmax(1)[..., None] * value[:, : t + 1]).sum(1)
        expected[:, t] = layer.out_proj(mixed.flatten(-2))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_sinusoids_are_those_of_the_transformer() -> None:
    table = sinusoids(5, 3, 8, torch.device("cpu"))
    place, pair = 6, 2
    angle = torch.tensor(place / 10000 ** (2 * pair / 8), dtype=torch.float64)
    torch.testing.assert_close(table[1, [pair, 4 + pair]], torch.stack((angle.sin(), angle.cos())))
    assert sinusoids(0, 4, 7, torch.device("cpu")).shape == (4, 7)


def test_the_block_is_norm_mixer_and_addition() -> None:
    model, tokens = make_model({"mlp_ratio": 2, "tie_embeddings": False}), make_tokens(2, 6)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    with torch.no_grad():
        stream = model.embedding(tokens)
        for block in model.blocks:
            assert isinstance(block, Block)
            assert block.mlp is not None
            assert block.mlp_norm is not None
            stream = stream + block.mixer(norm(stream, block.norm.weight))
            stream = stream + block.mlp(norm(stream, block.mlp_norm.weight))
        expected = model.head(norm(stream, model.norm.weight))
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d_conv", [0, 2, 4])
@pytest.mark.parametrize("gate", [True, False])
def test_the_mamba_mixer_is_its_figure(d_conv: int, gate: bool) -> None:
    """Projection, causal depthwise convolution, SiLU, S6, gate, projection (Figure 3 of the paper)."""
    block = make_model({"d_conv": d_conv, "gate": gate}).blocks[0]
    assert isinstance(block, Block)
    mixer = block.mixer
    assert isinstance(mixer, MambaMixer)
    u = random_input()[0][..., :16]
    projected = u @ mixer.in_proj.weight.t()
    x = projected[..., :32]
    if mixer.conv_weight is not None and mixer.conv_bias is not None:
        padded = F.pad(x, (0, 0, d_conv - 1, 0))
        x = mixer.conv_bias + sum(padded[:, k : k + 7] * mixer.conv_weight[:, k] for k in range(d_conv))
    y = mixer.inner(x * torch.sigmoid(x), None)
    if gate:
        y = y * F.silu(projected[..., 32:])
    torch.testing.assert_close(mixer(u), y @ mixer.out_proj.weight.t(), rtol=0, atol=1e-12)
