"""Specs of recall tasks and formal languages, drawn at random."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st

from workers.specs import AssociativeRecallSpec, ModularArithmeticSpec, MqarSpec, ParitySpec, TaskSpec

LOSSES: st.SearchStrategy[Literal["last", "all"]] = st.sampled_from(["last", "all"])


@st.composite
def mqar_specs(draw: st.DrawFn) -> MqarSpec:
    pairs = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    vocab = 2 * draw(st.integers(max(pairs) + 1, 20))
    filler: Literal["zero", "random"] = draw(st.sampled_from(["zero", "random"]))
    kv_pairs = pairs[0] if len(pairs) == 1 else tuple(pairs)
    return MqarSpec(
        seqlen=draw(st.integers(4 * max(pairs), 60)),
        kv_pairs=kv_pairs,
        vocab=vocab,
        power=draw(st.sampled_from([0.01, 1.0])),
        filler=filler,
        curriculum=draw(st.booleans()),
    )


RECALL: st.SearchStrategy[AssociativeRecallSpec] = st.builds(
    AssociativeRecallSpec,
    pairs=st.integers(1, 20),
    vocab=st.integers(2, 12).map(lambda half: 2 * half),
    loss_on=LOSSES,
)
PARITY: st.SearchStrategy[ParitySpec] = st.builds(ParitySpec, seqlen=st.integers(1, 40), loss_on=LOSSES)
ARITHMETIC: st.SearchStrategy[ModularArithmeticSpec] = st.builds(
    ModularArithmeticSpec, operands=st.integers(1, 20), modulus=st.integers(2, 11), loss_on=LOSSES
)
SPECS: st.SearchStrategy[TaskSpec] = st.one_of(mqar_specs(), RECALL, PARITY, ARITHMETIC)
