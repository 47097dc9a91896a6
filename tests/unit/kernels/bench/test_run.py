"""The benchmark end to end on a CPU, with ops that really pass and really fail their parity."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kernels.bench import checks, doctor, official, registry, run
from kernels.bench.floors import floor_times, measure_floors
from kernels.bench.measure import QUICK, Subject, measured
from kernels.bench.problems import Problem, selective_scan_problem
from kernels.bench.registry import Entry, Work
from kernels.common.errors import UnsupportedError


def use(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> None:
    monkeypatch.setattr(registry, "ENTRIES", (entry,))


def test_an_op_that_passes_gets_its_speeds(monkeypatch: pytest.MonkeyPatch, make_entry: Any) -> None:
    use(monkeypatch, make_entry(0.0))
    report = run.run_bench(quick=True, device="cpu", commit="abc")
    assert report.passed
    assert [(row.direction, row.implementation, row.refused) for row in report.rows] == [
        ("forward", "torch", ""),
        ("backward", "torch", ""),
    ]
    assert all(row.times is not None and row.times.median > 0 for row in report.rows)
    assert report.rows[0].official_ms == 1.0
    assert report.rows[1].official_ms == 2.0
    assert report.commit == "abc"


def test_an_op_that_fails_gets_none(monkeypatch: pytest.MonkeyPatch, make_entry: Any) -> None:
    use(monkeypatch, make_entry(0.01))
    monkeypatch.setattr("kernels.bench.verify.FACTOR", 0.5)  # the wrong form is its own yardstick here
    report = run.run_bench(device="cpu", commit="abc")
    assert not report.passed
    ours = [row for row in report.rows if row.implementation == "torch"]
    assert [row.direction for row in ours] == ["forward", "backward"]
    assert all(row.times is None and row.refused.startswith("parity failed: y of 16") for row in ours)
    assert all(row.times is not None for row in report.rows if row.implementation == "reference")


def test_without_a_gpu_the_report_says_so(monkeypatch: pytest.MonkeyPatch, make_entry: Any) -> None:
    use(monkeypatch, make_entry(0.0))
    report = run.run_bench(quick=True, device="cpu", commit="abc")
    assert report.notes == [run.NO_GPU]
    assert run.NO_GPU in report.table()
    assert report.dtype == "float32"


def test_the_command_writes_json_and_prints_the_table(
    monkeypatch: pytest.MonkeyPatch, make_entry: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, make_entry(0.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(["--quick", "--out", str(tmp_path / "out.json"), "--commit", "abc"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["commit"] == "abc"
    printed = capsys.readouterr()
    assert "double" in printed.out
    assert printed.err == "1 of 1: double 64\n"


def test_what_is_measured_is_kept_when_the_run_is_ended(
    monkeypatch: pytest.MonkeyPatch, make_entry: Any, tmp_path: Path
) -> None:
    entry = make_entry(0.0)
    larger = replace(entry.shapes[0], sizes={"n": 128})
    monkeypatch.setattr(
        registry, "ENTRIES", (replace(entry, shapes=(*entry.shapes, larger), small_shapes=(*entry.shapes, larger)),)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def ended(subject: Subject, *arguments: Any) -> Any:
        if subject.shape.sizes["n"] == 128:
            raise KeyboardInterrupt
        return measured(subject, *arguments)

    monkeypatch.setattr("kernels.bench.run.measured", ended)
    out, table = tmp_path / "out.json", tmp_path / "out.md"
    with pytest.raises(KeyboardInterrupt):
        run.main(["--quick", "--out", str(out), "--markdown", str(table), "--commit", "abc"])
    written = json.loads(out.read_text())
    assert [row["shape"] for row in written["rows"]] == ["64", "64"]
    assert written["notes"] == [run.NO_GPU, "Unfinished: 1 of 2 problems measured."]
    assert "Unfinished: 1 of 2 problems measured." in table.read_text()


def test_the_command_fails_with_its_parity(monkeypatch: pytest.MonkeyPatch, make_entry: Any) -> None:
    use(monkeypatch, make_entry(0.01))
    monkeypatch.setattr("kernels.bench.verify.FACTOR", 0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main(["--quick", "--commit", "abc"]) == 1


def test_the_command_refuses_unknown_ops(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--op", "nothing"]) == 2
    assert "unknown op 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [UnsupportedError("not here"), RuntimeError("CUDA error: broken\nmore")])
def test_a_kernel_that_cannot_run_is_a_failed_row(
    monkeypatch: pytest.MonkeyPatch, make_entry: Any, error: Exception
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(checks, "parity", broken)
    rows = checks.check_entry(make_entry(0.0), torch.float32, "cpu")
    assert [row.passed for row in rows] == [False]
    assert str(error).splitlines()[0] in rows[0].case
    assert type(error).__name__ in rows[0].case


def test_doctor_checks_every_op_in_two_dtypes() -> None:
    rows = doctor.parity_table("cpu")
    assert {(row.op, row.dtype) for row in rows} == {
        (entry.name, dtype) for entry in registry.ENTRIES for dtype in ("float32", "bfloat16")
    }
    assert all(row.passed for row in rows)


def test_only_the_subjects_asked_for_are_timed(monkeypatch: pytest.MonkeyPatch, make_entry: Any) -> None:
    use(monkeypatch, make_entry(0.0))
    report = run.run_bench(subjects=["plain"], device="cpu", commit="abc")
    assert {row.implementation for row in report.rows} == {"reference"}
    assert report.parity == []
    with pytest.raises(UnsupportedError, match="unknown subject 'theirs'; known: ours, official, plain"):
        run.run_bench(subjects=["theirs"], device="cpu", commit="abc")


@pytest.mark.parametrize(("error", "refused"), [(0.0, False), (0.1, True)])
def test_an_official_kernel_that_computes_something_else_gets_no_speed(
    monkeypatch: pytest.MonkeyPatch, make_entry: Any, error: float, refused: bool
) -> None:
    entry = make_entry(0.0)
    ours = entry.make({"n": 64}, torch.float32, "cpu")
    theirs = replace(ours, function=lambda values, **_: 2 * values * (1 + error), options={})
    monkeypatch.setattr(official, "official", lambda problem: theirs)
    subject = Subject(ours, entry.shapes[0], floor_times(Work(1, 1), measure_floors("cpu", budget_ms=1.0)), "cpu")
    rows = list(run._official_rows(subject, QUICK))
    assert [(row.direction, row.implementation) for row in rows] == [
        ("forward", "mamba_ssm"),
        ("backward", "mamba_ssm"),
    ]
    assert [(row.times is None, "differs from ours by 0.1 of" in row.refused) for row in rows] == [
        (refused, refused)
    ] * 2


def test_the_official_kernel_is_left_out_where_it_is_not_installed() -> None:
    assert official.official(scan()) is None


def test_the_official_scan_gets_its_own_names_and_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def theirs(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.update(arguments)
        return arguments["u"], arguments["A"]

    monkeypatch.setattr(official, "_load", lambda module, name: theirs if "selective_scan" in module else None)
    problem = official.official(scan())
    assert problem is not None
    outputs = problem.call("mamba_ssm")
    assert torch.equal(outputs["y"], scan().tensors["x"])
    assert set(seen) == {"u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state"}
    assert seen["u"].shape == (2, 4, 3)
    assert seen["B"].shape == (2, 5, 3)
    assert seen["u"].is_contiguous()
    assert torch.equal(seen["u"], scan().tensors["x"].transpose(1, 2))


@pytest.mark.parametrize("op", ["causal_conv1d", "rms_norm", "selective_state_update", "causal_conv1d_update"])
def test_the_other_official_ops_compute_what_ours_do(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """Their plain forms, written down here with the names and layouts of their documentation, in the place of their kernels."""
    monkeypatch.setattr(official, "_load", lambda module, name: getattr(theirs, name))
    entry = next(entry for entry in registry.ENTRIES if entry.name == op)
    problem = entry.make(entry.small_shapes[0].sizes, torch.float32, "cpu")
    found = official.official(problem)
    assert found is not None
    assert official.difference(problem, found, problem.plain) < 1e-6


class theirs:  # noqa: N801  # stands for their modules
    @staticmethod
    def causal_conv1d_fn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> torch.Tensor:
        assert activation == "silu"
        width = weight.shape[1]
        y = F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))
        return F.silu(y[..., : x.shape[-1]])

    @staticmethod
    def causal_conv1d_update(
        x: torch.Tensor, conv_state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str
    ) -> torch.Tensor:
        assert activation == "silu"
        window = torch.cat([conv_state, x[..., None]], dim=-1)
        conv_state.copy_(window[..., 1:])
        return F.silu((window * weight).sum(-1) + bias)

    @staticmethod
    def rms_norm_fn(
        x: torch.Tensor, weight: torch.Tensor, bias: None, residual: torch.Tensor, *, eps: float, prenorm: bool,
        residual_in_fp32: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        assert prenorm
        assert residual_in_fp32
        stream = x + residual
        return F.rms_norm(stream, weight.shape, weight, eps), stream

    @staticmethod
    def selective_state_update(
        state: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        D: torch.Tensor, z: torch.Tensor, dt_bias: torch.Tensor, *, dt_softplus: bool,
    ) -> torch.Tensor:  # fmt: skip
        assert dt_softplus
        step = F.softplus(dt + dt_bias)[..., None]
        state.copy_(state * torch.exp(step * A) + step * B[:, None] * x[..., None])
        return ((state * C[:, None]).sum(-1) + D * x) * F.silu(z)


def scan() -> Problem:
    return selective_scan_problem({"batch": 2, "d_inner": 4, "seqlen": 3, "d_state": 5}, torch.float32, "cpu")
