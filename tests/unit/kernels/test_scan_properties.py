"""What holds for every scan, on cases that Hypothesis draws."""

from __future__ import annotations

from typing import cast

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.common.choice import ScanImplementation
from kernels.selective_state_update import selective_state_update
from tests.unit.kernels.scan_cases import Blocks, ScanCase, assert_same, at, gradients, run

drawn = settings(deadline=None, max_examples=30)

implementations = st.sampled_from(["reference", "chunked"])


@st.composite
def cases(draw: st.DrawFn, *, min_seqlen: int = 1, resets: bool | None = None, initial: bool | None = None) -> ScanCase:
    """Draw sizes and forms; small ones shrink to the plainest case."""
    d_inner = draw(st.sampled_from([1, 2, 3, 4, 6]))
    groups = st.sampled_from([0, -1, *(count for count in range(1, d_inner + 1) if d_inner % count == 0)])
    return ScanCase(
        batch=draw(st.integers(1, 4)),
        seqlen=draw(st.integers(min_seqlen, 20)),
        d_inner=d_inner,
        d_state=draw(st.integers(1, 5)),
        b_groups=draw(groups),
        c_groups=draw(groups),
        constant_dt=draw(st.booleans()),
        is_complex=draw(st.booleans()),
        softplus=draw(st.booleans()),
        bias=draw(st.booleans()),
        skip=draw(st.booleans()),
        gate=draw(st.booleans()),
        initial=draw(st.booleans()) if initial is None else initial,
        resets=draw(st.booleans()) if resets is None else resets,
    )


cuts = st.builds(
    Blocks,
    elements=st.sampled_from([1, 64, 2**18]),
    positions=st.integers(1, 20),
    lane_states=st.sampled_from([0, 2**30]),
)


@drawn
@given(cases(), cuts, st.integers(0, 2**16))
def test_the_chunked_form_is_the_reference(case: ScanCase, blocks: Blocks, seed: int) -> None:
    arguments = case.arguments(seed)
    with blocks.set():
        got = gradients("chunked", arguments)
    assert_same(got, gradients("reference", arguments))


@drawn
@given(cases(min_seqlen=2), cuts, implementations, st.data())
def test_two_halves_make_the_whole(
    case: ScanCase, blocks: Blocks, implementation: ScanImplementation, data: st.DataObject
) -> None:
    arguments = case.arguments()
    middle = data.draw(st.integers(1, case.seqlen - 1))
    every = slice(None)
    with blocks.set():
        whole = run(arguments, implementation)
        first = run(at(arguments, every, slice(middle)), implementation)
        second = run(at(arguments, every, slice(middle, None)), implementation, initial_state=first.final_state)
    assert_same({"y": torch.cat((first.y, second.y), dim=1), "final_state": second.final_state}, whole._asdict(), 1e-12)


@drawn
@given(cases(min_seqlen=2), cuts, implementations, st.data())
def test_no_output_depends_on_what_comes_later(
    case: ScanCase, blocks: Blocks, implementation: ScanImplementation, data: st.DataObject
) -> None:
    """Bitwise: the same numbers go the same way until then."""
    arguments, other = case.arguments(0), case.arguments(1)
    now = data.draw(st.integers(1, case.seqlen - 1))
    changed = dict(arguments)
    for name in ("x", "z", "reset", *(name for name in ("dt", "B", "C") if arguments[name].dim() >= 3)):
        if arguments[name] is not None:
            changed[name] = torch.cat((arguments[name][:, :now], other[name][:, now:]), dim=1)
    with blocks.set():
        first, second = run(arguments, implementation).y, run(changed, implementation).y
    assert torch.equal(first[:, :now], second[:, :now])
    assert not torch.equal(first[:, now:], second[:, now:])


@drawn
@given(cases(), cuts, implementations, st.randoms(use_true_random=False))
def test_sequences_of_a_batch_do_not_see_each_other(
    case: ScanCase, blocks: Blocks, implementation: ScanImplementation, random: object
) -> None:
    arguments = case.arguments()
    order = torch.randperm(case.batch, generator=torch.Generator().manual_seed(case.seqlen))
    along = {"x", "z", "reset", "initial_state"} | {name for name in ("dt", "B", "C") if arguments[name].dim() >= 3}
    permuted = {
        name: value[order] if name in along and value is not None else value for name, value in arguments.items()
    }
    with blocks.set():
        expected, got = run(arguments, implementation), run(permuted, implementation)
        alone = run(at(arguments, slice(0, 1), slice(None)), implementation)
    whole = {name: value[order] for name, value in expected._asdict().items()}
    assert_same(cast(dict[str, Tensor], got._asdict()), whole, 1e-13)
    assert_same(cast(dict[str, Tensor], alone._asdict()), {n: v[:1] for n, v in expected._asdict().items()}, 1e-13)


@drawn
@given(cases(resets=False, initial=True), cuts, implementations)
def test_a_step_of_zero_keeps_the_state(case: ScanCase, blocks: Blocks, implementation: ScanImplementation) -> None:
    case = case.with_(softplus=False, bias=False)
    arguments = case.arguments()
    with blocks.set():
        out = run(arguments, implementation, dt=torch.zeros_like(arguments["dt"]))
    assert torch.equal(out.final_state, arguments["initial_state"])


@drawn
@given(cases(min_seqlen=2, resets=False), cuts, implementations, st.data())
def test_a_reset_makes_two_sequences(
    case: ScanCase, blocks: Blocks, implementation: ScanImplementation, data: st.DataObject
) -> None:
    arguments = case.arguments()
    start = data.draw(st.integers(0, case.seqlen - 1))
    reset = torch.zeros(case.batch, case.seqlen, dtype=torch.bool)
    reset[:, start] = True
    every = slice(None)
    with blocks.set():
        packed = run(arguments, implementation, reset=reset)
        second = run(at(arguments, every, slice(start, None)), implementation, initial_state=None)
        ys = [run(at(arguments, every, slice(start)), implementation).y] if start else []
    expected = {"y": torch.cat((*ys, second.y), dim=1), "final_state": second.final_state}
    assert_same(cast(dict[str, Tensor], packed._asdict()), expected, 1e-12)


@drawn
@given(cases(resets=False), cuts)
def test_decode_steps_are_the_scan(case: ScanCase, blocks: Blocks) -> None:
    arguments = case.arguments()
    with blocks.set():
        expected = run(arguments)
    state = arguments["initial_state"]
    if state is None:
        state = torch.zeros(case.batch, case.d_inner, case.d_state, dtype=arguments["A"].dtype)
    state = state.clone()

    def now(name: str, t: int) -> Tensor:
        value: Tensor = arguments[name]
        return value[:, t] if value.dim() >= 3 else value.expand(case.batch, *value.shape)

    ys = []
    for t in range(case.seqlen):
        y = selective_state_update(
            state,
            arguments["x"][:, t],
            arguments["dt"] if case.constant_dt else arguments["dt"][:, t],
            arguments["A"],
            now("B", t),
            now("C", t),
            D=arguments["D"],
            z=arguments["z"][:, t] if case.gate else None,
            dt_bias=arguments["dt_bias"],
            dt_softplus=case.softplus,
        )
        ys.append(y)
    got = {"y": torch.stack(ys, dim=1), "final_state": state}
    assert_same(got, cast(dict[str, Tensor], expected._asdict()), 1e-12)
