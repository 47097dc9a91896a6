"""Which implementation runs, and what is said about it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from kernels.causal_conv1d import causal_conv1d, causal_conv1d_update
from kernels.common import UnsupportedError, choice
from kernels.rms_norm import rms_norm
from kernels.selective_scan import selective_scan
from kernels.selective_state_update import selective_state_update

pytestmark = pytest.mark.usefixtures("used")

one, ones, row = torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, 1)
CALLS: dict[str, tuple[Callable[[str], object], str, str]] = {
    "selective_scan": (
        lambda name: selective_scan(row, row, -ones, row, row, implementation=name),  # type: ignore[arg-type]
        "selective_scan",
        "chunked",
    ),
    "causal_conv1d": (
        lambda name: causal_conv1d(row, torch.ones(1, 2), implementation=name),  # type: ignore[arg-type]
        "causal_conv1d",
        "torch",
    ),
    "causal_conv1d_update": (
        lambda name: causal_conv1d_update(row.clone(), ones, torch.ones(1, 2), implementation=name),  # type: ignore[arg-type]
        "causal_conv1d",
        "torch",
    ),
    "rms_norm": (lambda name: rms_norm(row, one, implementation=name), "rms_norm", "torch"),  # type: ignore[arg-type]
    "selective_state_update": (
        lambda name: selective_state_update(row.clone(), ones, ones, -ones, ones, ones, implementation=name),  # type: ignore[arg-type]
        "selective_state_update",
        "torch",
    ),
}
every_op = pytest.mark.parametrize(("call", "op", "plain"), CALLS.values(), ids=CALLS)


@every_op
def test_auto_is_the_plain_form_on_a_cpu_and_is_recorded(call: Callable[[str], object], op: str, plain: str) -> None:
    call("auto")
    assert choice.used() == {op: [plain]}
    call("reference")
    assert choice.used() == {op: sorted([plain, "reference"])}


@every_op
def test_a_request_is_met_or_refused(
    call: Callable[[str], object], op: str, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    call(plain)
    with pytest.raises(UnsupportedError, match=f"{op}: .*'triton' cannot run: the tensors are on cpu.*use '{plain}'"):
        call("triton")
    with pytest.raises(UnsupportedError, match=f"{op}: implementation must be one of .*, got 'cuda'"):
        call("cuda")
    assert choice.used() == {op: [plain]}


def test_on_cuda_auto_is_triton_unless_that_refuses_and_then_it_warns(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kernels")
    assert choice.resolve("rms_norm", "auto", "torch", "cuda", "") == "triton"
    assert caplog.records[-1].levelno == logging.INFO
    assert choice.resolve("rms_norm", "auto", "torch", "cuda", "d is 99999") == "torch"
    assert caplog.records[-1].levelno == logging.WARNING
    assert caplog.messages[-1] == "rms_norm runs its 'torch' implementation on CUDA: d is 99999"
    assert choice.used() == {"rms_norm": ["torch", "triton"]}
    with pytest.raises(UnsupportedError, match="'triton' cannot run: d is 99999; use 'torch', 'reference' or 'auto'"):
        choice.resolve("rms_norm", "triton", "torch", "cuda", "d is 99999")


def test_each_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kernels")
    for _ in range(3):
        rms_norm(row, one)
    assert caplog.messages == ["rms_norm runs its 'torch' implementation"]


def test_an_op_without_a_kernel_says_so() -> None:
    with pytest.raises(UnsupportedError, match="common has no Triton kernel"):
        choice.resolve("common", "triton", "torch", "cuda", "")
    assert choice.resolve("common", "auto", "torch", "cuda", "") == "torch"


def test_triton_is_asked_only_where_it_might_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choice.wants_triton("rms_norm", "auto", "cuda")
    assert not choice.wants_triton("rms_norm", "torch", "cuda")
    assert not choice.wants_triton("rms_norm", "auto", "cpu")
    assert not choice.wants_triton("common", "auto", "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choice.wants_triton("rms_norm", "triton", "cpu")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo warns of itself
def test_compiled_code_is_recorded_when_traced() -> None:
    compiled = torch.compile(lambda x: rms_norm(x, one).y, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(2 * row), rms_norm(2 * row, one).y)
    assert choice.used() == {"rms_norm": ["torch"]}


def test_layouts_are_remembered_by_op_and_shape_and_forgotten_with_the_rest() -> None:
    asked: list[int] = []

    def describe() -> choice.Layout:
        asked.append(1)
        return {"warps": 4, "splits": None}

    for shape in ("1x2x3x4", "1x2x3x4", "5x6x7x8"):
        choice.record_layout("selective_scan", shape, describe)
    assert choice.layouts() == {
        "selective_scan": {"1x2x3x4": {"warps": 4, "splits": None}, "5x6x7x8": {"warps": 4, "splits": None}}
    }
    assert len(asked) == 2
    choice.reset_used()
    assert choice.layouts() == {}
