"""Measuring training steps: what is counted is hand-computed here, and the figures of a real, tiny bench are consistent."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from workers.models import build_model
from workers.specs import ModelSpec
from workers.tasks import Batch
from workers.tasks.base import SyntheticTask
from workers.training import bench, bench_official
from workers.training.bench_cases import Case, cases, forward_operations, subjects
from workers.training.determinism import reproducible
from workers.training.measuring import Rig, measure_rate, take_apart, union
from workers.training.precision import place

if TYPE_CHECKING:
    from tests.unit.workers.training.conftest import Execute, MakeSpec


def test_overlapping_kernels_count_once() -> None:
    assert union([(5, 7), (0, 2), (1, 3), (6, 6)]) == 5
    assert union([]) == 0


def test_a_rig_takes_the_run_s_own_steps(execute: Execute, make_spec: MakeSpec) -> None:
    spec = make_spec(steps=5, log_every=1)
    losses = execute(spec).sink.series("train/loss")
    placement = place(spec)
    with reproducible(placement):
        rig = Rig(spec, placement)
        rig.advance(2)
        rig.advance(3)
    assert rig.loss() == losses[5]
    assert rig.mode() == ("eager", "graphs need CUDA, and the run is on cpu")


def test_a_rig_of_several_members_takes_the_steps_of_all(make_spec: MakeSpec) -> None:
    spec = make_spec()
    placement = place(spec)
    with reproducible(placement):
        one, three = Rig(spec, placement), Rig(spec, placement, members=3)
        one.advance(3)
        three.advance(3)
        assert three.loss() == pytest.approx(one.loss(), rel=1e-4)
        assert (three.tokens, three.parameters) == (3 * one.tokens, 3 * one.parameters)


def test_a_step_is_taken_apart_into_operators(make_spec: MakeSpec) -> None:
    spec = make_spec()
    placement = place(spec)
    with reproducible(placement):
        rig = Rig(spec, placement)
        rig.settle()
        anatomy = take_apart(rig, 2)
        rate = measure_rate(rig, budget_s=0.02, laps=2)
    named = {kernel.name: kernel for kernel in anatomy.kernels}
    assert named["aten::embedding"].calls == 1
    assert anatomy.busy_microseconds == pytest.approx(sum(kernel.microseconds for kernel in anatomy.kernels))
    assert anatomy.kernels[0].microseconds == max(kernel.microseconds for kernel in anatomy.kernels)
    assert rate.p20 <= rate.median <= rate.p80
    assert rate.laps == 2


def test_operations_of_a_mamba_and_of_a_transformer_by_hand() -> None:
    mamba = ModelSpec(d_model=8, n_layer=2, d_state=4, dt_rank=3, tie_embeddings=False)
    layer = 8 * 32 + 16 * (3 + 4 + 4) + 3 * 16 + 16 * 8  # in_proj, x_proj, dt, out_proj
    expected = 2 * (2 * layer + 8 * 5) + 2 * 9 * 16 * 4
    assert forward_operations(build_model(mamba, 5), mamba, 100) == expected
    attention = ModelSpec(mixer="attention", d_model=8, n_layer=1, n_heads=2, mlp_ratio=4)
    expected = 2 * (4 * 64 + 2 * 8 * 32 + 8 * 5) + 2 * 100 * 8
    assert forward_operations(build_model(attention, 5), attention, 100) == expected


@pytest.mark.parametrize("case", cases(gpu=True), ids=lambda case: case.name)
def test_the_transformer_is_of_equal_size(case: Case) -> None:
    ours, theirs = subjects(case, gpu=False)
    with torch.device("meta"):
        sizes = [
            sum(value.numel() for name, value in build_model(spec, 2).named_parameters() if "embed" not in name)
            for spec in (ours.change(case.spec.model), theirs.change(case.spec.model))
        ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_the_bench_reports_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = cases(gpu=False)
    small = case.spec.model.model_copy(update={"d_model": 8, "n_heads": 2})
    task = case.spec.task.model_copy(update={"seqlen": 16})
    tiny = Case(case.name, case.note, case.spec.model_copy(update={"model": small, "task": task}))
    monkeypatch.setattr(bench, "cases", lambda *, gpu: [tiny])
    kept: list[int] = []
    report = bench.run_bench(quick=True, commit="abc", keep=lambda so_far: kept.append(len(so_far.rows)))
    assert kept == [1, 2]  # after each row
    assert [row.subject for row in report.rows] == ["mambalab", "Transformer, SDPA"]
    for row in report.rows:
        assert row.steps_per_s is not None
        assert row.tokens_per_s == pytest.approx(row.steps_per_s.median * 8 * 16)
        assert (row.mode, row.precision) == ("eager", "fp32")
        assert f"{row.steps_per_s.median:,.1f}" in report.table()
    written = json.loads(report.to_json())
    assert written["commit"] == "abc"
    assert [row["case"] for row in written["rows"]] == ["induction-heads"] * 2


def test_the_authors_model_is_trained_as_its_users_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for their package, which learns a task whose answer is the token itself."""
    asked: list[dict[str, Any]] = []

    class Model(nn.Module):
        def __init__(self, settings: dict[str, Any]) -> None:
            super().__init__()
            asked.append(settings)
            self.table = nn.Embedding(settings["vocab_size"], settings["vocab_size"])

        def forward(self, tokens: Tensor) -> SimpleNamespace:
            strict.append(torch.are_deterministic_algorithms_enabled())
            return SimpleNamespace(logits=self.table(tokens))

    strict: list[bool] = []
    modules = {
        "mamba_ssm.models.mixer_seq_simple": SimpleNamespace(MambaLMHeadModel=Model),
        "mamba_ssm.models.config_mamba": SimpleNamespace(MambaConfig=dict),
    }
    monkeypatch.setattr(importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(bench_official, "installed", lambda: True)
    (case,) = cases(gpu=False)
    own = [subject for subject in subjects(case, gpu=True) if subject.name == "mamba_ssm"]
    assert [subject.capture for subject in own] == ["auto", "off"]
    rig = bench_official.OfficialRig(case.spec, place(case.spec), _Echo())
    before = rig.model.get_parameter("table.weight").detach().clone()
    rig.settle()
    rig.advance(20)
    change = (rig.model.get_parameter("table.weight") - before).diagonal()
    assert (change > 0).all()  # the answer gains, whatever the token
    assert rig.mode() == ("eager", "graphs need CUDA")
    assert (rig.tokens, rig.parameters) == (8 * 6, 25)
    assert asked[0]["ssm_cfg"] == {"layer": "Mamba1", "d_state": 16, "dt_rank": 16}
    row = bench._measure(Case("echo", "", case.spec), own[0], "fp32", budget_s=0.01)
    assert row.steps_per_s is not None
    assert not any(strict)  # its kernels are not slowed down by our deterministic algorithms


class _Echo(SyntheticTask):
    name, vocab_size, seqlen = "echo", 5, 6

    def sample(self, generator: torch.Generator, batch_size: int, device: torch.device | str) -> Batch:
        tokens = torch.randint(0, 5, (batch_size, 6), generator=generator, device=device)
        return Batch(tokens, tokens)

    def describe(self, batch: Batch) -> str:
        return str(batch.inputs[0].tolist())


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(ValueError, match="no case induction-head; here there is induction-heads"):
        bench.run_bench(["induction-head"])
