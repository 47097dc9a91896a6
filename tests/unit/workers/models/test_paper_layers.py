"""The paper's baseline layers against plain loops and closed forms written from their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.workers.models.cases import make_model, make_spec, make_tokens
from workers.errors import SpecError
from workers.models import build_model
from workers.models.attention import AttentionMixer, xpos_scales
from workers.models.block import MLP, Block, LayerNorm, mlp_width
from workers.models.h3 import H3Mixer
from workers.models.hyena import Hyena
from workers.models.mamba import MambaMixer
from workers.models.no_gate import NoGateMixer
from workers.models.s4d import S4D
from workers.specs import ModelSpec


def mixer_of(switches: dict[str, Any]) -> Any:
    """Return the first layer's mixer of a float64 model."""
    block = make_model(switches).blocks[0]
    assert isinstance(block, Block)
    return block.mixer


def random_input(channels: int = 16, seqlen: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, seqlen, channels, generator=generator, dtype=torch.float64)


def test_hyenas_kernel_is_the_network_times_the_window() -> None:
    layer = mixer_of(
        {"inner": "hyena", "hyena_l_max": 9, "hyena_emb": 5, "hyena_width": 6, "hyena_decay_floor": 0.05}
    ).inner
    assert isinstance(layer, Hyena)
    for place in range(12):  # past l_max too
        time = place / 8
        angles = [frequency * 2 * math.pi * place / 9 for frequency in (1e-4, 1.0)]
        hidden = torch.tensor([time, *map(math.cos, angles), *(-math.sin(a) for a in angles)], dtype=torch.float64)
        for part in layer.filter:
            assert isinstance(part, torch.nn.Linear)
            hidden = torch.sin(layer.frequency * (part.weight @ hidden + part.bias))
        for channel in (0, 13, 31):
            # the window of the slowest channel, the first, is 1 % at 1.5 l_max; that of the last at 0.3 l_max
            slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
            window = math.exp(time * (slow + (fast - slow) * channel / 31)) + 0.05
            expected = (layer.filter_out.weight[channel] @ hidden) * window
            torch.testing.assert_close(layer.kernel(12)[channel, place], expected, rtol=0, atol=1e-12)


def test_hyena_convolves_with_its_kernel() -> None:
    layer, x, z = mixer_of({"inner": "hyena", "hyena_l_max": 32}).inner, random_input(32), random_input(32) + 1
    kernel = layer.kernel(7)
    expected = torch.stack(
        [sum(kernel[:, t - s] * x[:, s] for s in range(t + 1)) + layer.D * x[:, t] for t in range(7)], 1
    )
    torch.testing.assert_close(layer(x, z), expected * z * torch.sigmoid(z), rtol=0, atol=1e-12)


def test_learned_positions_start_as_the_fixed_ones_and_end() -> None:
    torch.manual_seed(0)
    fixed = Hyena(make_spec({"inner": "hyena", "hyena_l_max": 16}))
    torch.manual_seed(0)
    learned = Hyena(make_spec({"inner": "hyena", "hyena_l_max": 16, "hyena_positions": "learned"}))
    torch.testing.assert_close(learned.kernel(16), fixed.kernel(16))
    assert fixed.kernel(40).shape == (32, 40)
    with pytest.raises(ValueError, match="learned positions end at model.hyena_l_max = 16, got a sequence of 17"):
        learned.kernel(17)


def test_steps_of_hyena_write_the_kernel_anew_only_where_gradients_flow() -> None:
    model, tokens = make_model({"inner": "hyena", "hyena_l_max": 64}), make_tokens(1, 6)
    state = model.allocate_state(1)
    logits = torch.stack([model.step(tokens[:, place], state)[0] for place in range(6)], dim=1)
    assert state.layers[0]["kernel"].shape[1] == 0
    (grad,) = torch.autograd.grad(logits.square().sum(), model.embedding.weight)
    (expected,) = torch.autograd.grad(model(tokens).square().sum(), model.embedding.weight)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-11)


def test_the_shift_ssm_is_a_filter_over_its_states() -> None:
    """State n holds the input of n positions ago: h' = S h + e_1 x, y = C h' + D x."""
    layer = mixer_of({"mixer": "h3", "inner": "s4d", "h3_shift_state": 4})
    assert isinstance(layer, H3Mixer)
    assert layer.shift_skip is not None
    u = random_input()
    query, value, key = layer.in_proj(u).chunk(3, dim=-1)
    states = torch.zeros(2, 16, 4, dtype=torch.float64)
    shifted = []
    for t in range(7):
        states = torch.cat((key[:, t, :, None], states[..., :-1]), dim=-1)
        shifted.append((states * layer.shift_weight.flip(1)).sum(-1) + layer.shift_skip * key[:, t])
    expected = layer.out_proj(layer.inner(torch.stack(shifted, 1) * value, None) * query)
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-12)


def test_conv_qkv_convolves_all_three_projections() -> None:
    layer = mixer_of({"mixer": "h3", "inner": "hyena", "h3_shift": "conv-qkv", "d_conv": 3, "hyena_l_max": 16})
    u = random_input()
    padded = F.pad(layer.in_proj(u), (0, 0, 2, 0))
    convolved = layer.shift_bias + sum(padded[:, k : k + 7] * layer.shift_weight[:, k] for k in range(3))
    query, value, key = convolved.chunk(3, dim=-1)
    expected = layer.out_proj(layer.inner(key * value, None) * query)
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-12)


def test_the_block_without_a_gate_is_layer_gelu_projection() -> None:
    layer, u = mixer_of({"mixer": "no-gate", "inner": "s4d"}), random_input()
    assert isinstance(layer, NoGateMixer)
    expected = F.gelu(layer.inner(u, None)) @ layer.out_proj.weight.t()
    torch.testing.assert_close(layer(u), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(layer(2 * u), 2 * layer(u))


def test_xpos_decays_a_score_with_the_distance() -> None:
    """A score of xPos is RoPE's with pair i damped by zeta_i^(distance / 512)."""
    layer = mixer_of({"mixer": "attention", "positions": "xpos"})
    assert isinstance(layer, AttentionMixer)
    x = random_input(seqlen=600)[:, ::1]
    query, key, value = (part.unflatten(-1, (4, 4)) for part in layer.in_proj(x).chunk(3, dim=-1))
    t = 599
    distance = t - torch.arange(600, dtype=torch.float64)
    scores = torch.zeros(2, 600, 4, dtype=torch.float64)
    for pair, zeta in enumerate((0.4 / 1.4, (1 / 2 + 0.4) / 1.4)):
        angle = distance * 10000 ** (-2 * pair / 4)
        q = torch.complex(query[:, t, :, pair], query[:, t, :, pair + 2])
        k = torch.complex(key[..., pair], key[..., pair + 2])
        turned = (q[:, None] * k.conj() * torch.polar(zeta ** (distance / 512), angle)[None, :, None]).real
        scores = scores + turned
    weights = (scores / 2).softmax(1)
    expected = layer.out_proj((weights[..., None] * value).sum(1).flatten(-2))
    torch.testing.assert_close(layer(x)[:, t], expected, rtol=0, atol=1e-11)


def test_xpos_is_finite_far_beyond_where_absolute_scales_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(make_spec({"mixer": "attention", "positions": "xpos", "n_layer": 1}), 11)
    tokens, state = make_tokens(1, 64), model.allocate_state(1)
    with torch.no_grad():
        model(tokens, state)
        state.position = 2**20  # as if a million tokens lay before; their keys are zeros here
        for layer in state.layers:
            for name in layer:
                layer[name] = torch.zeros(1, 4, 2**20, 4)
        assert model(tokens, state).isfinite().all()
        whole = model(make_tokens(1, 40))
        monkeypatch.setattr("workers.models.attention._XPOS_QUERIES", 16)
        torch.testing.assert_close(model(make_tokens(1, 40)), whole, rtol=1e-5, atol=1e-6)
    assert xpos_scales(0, 513, 4, torch.device("cpu"))[512, 0] == pytest.approx(0.4 / 1.4)


def test_swiglu_is_gated_and_as_large_as_a_plain_mlp() -> None:
    spec = ModelSpec(d_model=48, mlp_ratio=4, mlp="swiglu")
    assert mlp_width(spec) == 128
    layer, x = MLP(spec), torch.randn(3, 48)
    gate, value = (x @ layer.in_proj.weight.t()).chunk(2, dim=-1)
    torch.testing.assert_close(layer(x), (gate * torch.sigmoid(gate) * value) @ layer.out_proj.weight.t())
    assert sum(p.numel() for p in layer.parameters()) == sum(
        p.numel() for p in MLP(ModelSpec(d_model=48, mlp_ratio=4)).parameters()
    )
    assert mlp_width(ModelSpec(d_model=50, mlp_ratio=4, mlp="swiglu")) == 136


def test_the_layer_norm_adds_to_an_fp32_stream() -> None:
    norm, x = LayerNorm(ModelSpec(d_model=8)), torch.randn(3, 8)
    y, stream = norm(x.bfloat16(), x)
    assert (y.dtype, stream.dtype) == (torch.bfloat16, torch.float32)
    centred = stream - stream.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.02)


def test_legs_are_the_eigenvalues_of_hippo() -> None:
    """HiPPO-LegS: A[n, k] = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it; A + P P^T is normal."""
    size = 8
    n = torch.arange(size, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    hippo = -torch.tril(torch.outer(root, root), -1) - torch.diag(n + 1)
    p = (n + 0.5).sqrt()
    eigenvalues = torch.linalg.eigvals(hippo + torch.outer(p, p))
    expected = eigenvalues[eigenvalues.imag > 0]
    layer = S4D(ModelSpec(d_model=4, inner="s4d", d_state=size, s4d_init="legs"))
    assert layer.A_imag is not None
    torch.testing.assert_close(expected.real, torch.full((4,), -0.5, dtype=torch.float64))
    torch.testing.assert_close(layer.A_imag[0].double(), expected.imag.sort().values, rtol=1e-6, atol=0)


def test_a_pattern_names_each_layer() -> None:
    model = build_model(ModelSpec(pattern="h3/s4d, mamba*2, attention", n_layer=8, d_state=4), 5)
    kinds = [type(block.mixer) for block in model.blocks if isinstance(block, Block)]
    assert kinds == [H3Mixer, MambaMixer, MambaMixer, AttentionMixer] * 2
    first, second = (block.mixer for block in list(model.blocks)[:2] if isinstance(block, Block))
    assert isinstance(first, H3Mixer)
    assert isinstance(second, MambaMixer)
    assert (type(first.inner).__name__, type(second.inner).__name__) == ("S4D", "S6")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "mamba,attn"}, "pattern: 'attn' is no layer; expected mamba"),
        ({"pattern": "mamba*3", "n_layer": 4}, "n_layer must be a multiple of the pattern's 3 layers, got 4"),
        ({"pattern": "mamba,attention", "n_heads": 7}, "n_heads must divide d_model"),
        ({"hyena_emb": 4}, "hyena_emb must be odd"),
        ({"mixer": "h3", "h3_shift": "conv", "d_conv": 0}, "h3_shift='conv' is a convolution"),
        ({"pattern": "attention,mamba/s4d", "d_state": 3}, "d_state must be even"),
    ],
)
def test_what_cannot_be_built_says_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(change)


def test_learned_positions_of_attention_end_with_a_sentence() -> None:
    model = build_model(make_spec({"mixer": "attention", "positions": "learned", "max_positions": 8}), 11)
    with pytest.raises(ValueError, match="learned positions end at model.max_positions = 8, got a sequence of 9"):
        model(make_tokens(1, 9))
    with pytest.raises(SpecError, match="model.positions 'xpos' turns pairs"):
        build_model(ModelSpec(mixer="attention", d_model=12, n_heads=4, positions="xpos"), 5)
