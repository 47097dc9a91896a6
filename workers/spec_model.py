"""What a model is: its layers, their switches, and what the paper leaves open. Pure: neither torch nor Ray.

Where the paper (Gu & Dao 2023, arXiv 2312.00752) does not say how a baseline was built, the choice is a field here and
its default is what its sources use; the comment says which.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from workers.spec_base import Spec

Implementation = Literal["auto", "reference", "chunked", "triton"]
MixerName = Literal["mamba", "attention", "h3", "no-gate"]
InnerName = Literal["s6", "s4d", "hyena"]

_LAYER = re.compile(
    r"(?P<mixer>mamba|attention|h3|no-gate)(?:/(?P<inner>s6|s4d|hyena))?(?:\s*\*\s*(?P<times>[1-9]\d*))?"
)


class ModelSpec(Spec):
    """A language model of pre-norm residual blocks around a registered mixer.

    The defaults are the released Mamba-1 ones (state-spaces/mamba, `mamba_simple.py`), at the size of the paper's
    synthetic tasks.
    """

    mixer: MixerName = "mamba"
    inner: InnerName = "s6"  # the sequence layer inside the mamba, h3 and no-gate mixers
    pattern: str = Field(
        "", description="mixers of a hybrid, such as 'mamba*3,attention' or 'h3/s4d,attention'; repeats up to n_layer"
    )
    d_model: int = Field(64, ge=1)
    n_layer: int = Field(2, ge=1)
    expand: int = Field(2, ge=1, description="of the Mamba block; h3 and no-gate are d_model wide")
    d_state: int = Field(16, ge=1, le=256)
    d_conv: int = Field(4, ge=0, description="width of the causal convolution; 0 leaves it out")
    gate: bool = True  # the Mamba block's SiLU(z) branch
    skip: bool = True  # D x
    dt_rank: int | Literal["auto"] = "auto"  # auto: ceil(d_model / 16); 0: a static dt per channel
    dt_min: float = Field(1e-3, gt=0)
    dt_max: float = Field(1e-1, gt=0)
    selective_dt: bool = True
    selective_b: bool = True
    selective_c: bool = True
    a_init: Literal["lin", "half", "random", "complex"] = "lin"  # -(n+1), -1/2, -exp(N(0,1)), -1/2 + ni (Table 8)
    constant_init: Literal["s4", "ones", "normal"] = (
        "s4"  # of B and C that are not selective (not stated); s4: B 1, C normal
    )
    s4d_init: Literal["lin", "inv", "real", "legs"] = "lin"
    s4d_tied: bool = False  # one A for all channels, as S4's n_ssm = 1
    s4d_mode: Literal["convolution", "recurrence"] = "convolution"
    h3_shift: Literal["ssm", "conv", "conv-qkv"] = (
        "ssm"  # of k: shift SSM or conv of d_conv; conv-qkv: all three, Hyena's
    )
    h3_bias: bool = (
        True  # of its projections; published: yes (safari); without, Table 11's printed size fits (inferred)
    )
    h3_shift_state: int = Field(64, ge=2, description="states of the shift SSM: how far it looks back")
    hyena_l_max: int = Field(1024, ge=2, description="positions that the filter's time axis 0 .. 1 spans")
    hyena_emb: int = Field(
        33, ge=3, description="positional features of the filter MLP; odd: time, and sine/cosine pairs"
    )
    hyena_positions: Literal["fixed", "learned"] = "fixed"  # learned: of the paper's 69M (Table 11), inferred
    hyena_positions_lr: float = Field(1e-5, gt=0, description="highest rate of learned positions")
    hyena_width: int = Field(64, ge=1, description="width of the filter MLP")
    hyena_depth: int = Field(2, ge=0, description="its layers between the first and the last")
    hyena_freq: float = Field(10.0, gt=0, description="initial frequency of its sines; published: 1, 10 or 14")
    hyena_decay_fast: float = Field(0.3, gt=0, description="share of l_max where the fastest channel's window is 1 %")
    hyena_decay_slow: float = Field(1.5, gt=0, description="and where the slowest channel's is")
    hyena_decay_floor: float = Field(0.0, ge=0, description="added to the window")
    n_heads: int = Field(8, ge=1)
    positions: Literal["none", "sinusoidal", "learned", "rope", "xpos"] = "rope"  # of the attention mixer
    max_positions: int = Field(1024, ge=1, description="longest sequence that learned positions serve")
    mlp_ratio: int = Field(0, ge=0, description="width of the MLP after each mixer over d_model; 0 leaves it out")
    mlp: Literal["gelu", "swiglu"] = "gelu"  # swiglu: two thirds as wide, so that it has as many parameters
    norm: Literal["rms", "layer"] = "rms"
    dropout: float = Field(0.0, ge=0, lt=1)
    tie_embeddings: bool = True
    norm_eps: float = Field(1e-5, gt=0)
    implementation: Implementation = "auto"

    def layers(self) -> list[ModelSpec]:
        """Return each layer's own spec: its mixer and inner layer named, no pattern left."""
        if not self.pattern:
            return [self] * self.n_layer
        kinds = [
            self.model_copy(update={"pattern": "", "mixer": mixer, "inner": inner or self.inner})
            for mixer, inner in parse_pattern(self.pattern)
        ]
        return [kinds[index % len(kinds)] for index in range(self.n_layer)]

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.dt_min >= self.dt_max:
            raise ValueError(f"dt_min must be below dt_max, got {self.dt_min} and {self.dt_max}")
        if isinstance(self.dt_rank, int) and self.dt_rank < 0:
            raise ValueError(f"dt_rank must be 'auto' or at least 0, got {self.dt_rank}")
        if self.d_conv == 1:
            raise ValueError("d_conv must be 0 (no convolution) or at least 2, got 1")
        if self.hyena_emb % 2 == 0:
            raise ValueError(f"hyena_emb must be odd (time, and pairs of sine and cosine), got {self.hyena_emb}")
        if self.pattern and self.n_layer % len(parse_pattern(self.pattern)):
            length = len(parse_pattern(self.pattern))
            raise ValueError(f"n_layer must be a multiple of the pattern's {length} layers, got {self.n_layer}")
        return self

    @model_validator(mode="after")
    def _layers_can_be_built(self) -> ModelSpec:
        kinds = {(layer.mixer, layer.inner) for layer in self.layers()}
        mixers = {mixer for mixer, _ in kinds}
        if "attention" in mixers and self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model, got {self.n_heads} and {self.d_model}")
        inners = {inner for mixer, inner in kinds if mixer != "attention"}
        if "s4d" in inners and self.s4d_init != "real" and self.d_state % 2:
            raise ValueError(
                f"s4d_init={self.s4d_init!r} stores conjugate pairs: d_state must be even, got {self.d_state}"
            )
        if "h3" in mixers and self.h3_shift != "ssm" and self.d_conv == 0:
            raise ValueError(f"h3_shift={self.h3_shift!r} is a convolution: d_conv must be at least 2, got 0")
        return self


def parse_pattern(pattern: str) -> list[tuple[MixerName, InnerName | None]]:
    """Return the (mixer, inner layer or None) of each layer of 'mamba*3,attention'.

    Raises:
        ValueError: names the part that is no layer, and what one looks like.
    """
    layers: list[tuple[MixerName, InnerName | None]] = []
    for part in pattern.split(","):
        found = _LAYER.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                f"pattern: {part.strip()!r} is no layer; expected mamba, attention, h3 or no-gate, optionally with an "
                "inner layer and a count, such as 'h3/s4d*2'"
            )
        # the expression admits exactly the names of the two types
        layers += [(found["mixer"], found["inner"])] * int(found["times"] or 1)  # type: ignore[list-item]
    return layers
