"""Measuring generation: a real, tiny model on a CPU, and the authors' decode step by a stand-in."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.specs import ModelSpec
from workers.training import bench_decode

TINY = ModelSpec(d_model=8, n_layer=2, d_state=4, dt_rank=2)


def test_the_report_holds_what_was_generated(tmp_path: Path) -> None:
    report = bench_decode.run_bench([1, 3], model=TINY, vocab_size=11, budget_s=0.01, commit="abc")
    assert [(row.subject, row.batch, row.mode) for row in report.rows] == [
        ("mambalab", 1, "eager"),
        ("mambalab", 3, "eager"),
    ]
    for row in report.rows:
        assert row.tokens_per_s == pytest.approx(row.batch / row.milliseconds * 1e3)
        assert row.p20 <= row.tokens_per_s <= row.p80
        assert f"{row.tokens_per_s:,.0f}" in report.table()
    report.write(tmp_path / "decode.json")
    written = json.loads((tmp_path / "decode.json").read_text())
    assert (written["bench"], written["commit"], len(written["rows"])) == ("decode", "abc", 2)


def test_ours_generates_from_the_state_that_it_keeps() -> None:
    """Two steps are not twice the first: the state has moved on."""
    step, device = bench_decode._ours(TINY, 11, 2, "cpu")
    tokens = torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        first, second = step(tokens), step(tokens)
    assert first.shape == (2, 11)
    assert not torch.equal(first, second)
    assert device.type == "cpu"


def test_theirs_takes_its_decode_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Model(nn.Module):
        def __init__(self, settings: dict[str, Any]) -> None:
            super().__init__()
            self.settings = settings

        def allocate_inference_cache(self, batch: int, seqlen: int, dtype: torch.dtype) -> str:
            assert (batch, seqlen, dtype) == (2, 1, torch.bfloat16)
            return "cache"

        def forward(self, tokens: Tensor, *, inference_params: Any, num_last_tokens: int) -> SimpleNamespace:
            seen.append((inference_params, num_last_tokens))
            return SimpleNamespace(logits=torch.zeros(*tokens.shape, self.settings["vocab_size"]))

    modules = {
        "mamba_ssm.models.mixer_seq_simple": SimpleNamespace(MambaLMHeadModel=Model),
        "mamba_ssm.models.config_mamba": SimpleNamespace(MambaConfig=dict),
        "mamba_ssm.utils.generation": SimpleNamespace(InferenceParams=SimpleNamespace),
    }
    monkeypatch.setattr(importlib, "import_module", modules.__getitem__)
    step, _ = bench_decode._official(TINY, 11, 2, "cpu")
    assert step(torch.zeros(2, dtype=torch.int64)).shape == (2, 11)
    ((inference, last),) = seen
    assert (inference.seqlen_offset, inference.key_value_memory_dict, last) == (1, "cache", 1)


def test_the_command_writes_and_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bench_decode.run_bench([1], model=TINY, vocab_size=11, budget_s=0.01, commit="abc")
    asked: list[Any] = []

    def measure(*arguments: Any, **options: Any) -> bench_decode.DecodeReport:
        asked.append((arguments, options))
        return report

    monkeypatch.setattr(bench_decode, "run_bench", measure)
    assert bench_decode.main(["--batch", "1", "--out", str(tmp_path / "d.json"), "--commit", "abc"]) == 0
    assert asked == [(([1],), {"commit": "abc"})]
    assert capsys.readouterr().out == report.table() + "\n"
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads(report.to_json())
