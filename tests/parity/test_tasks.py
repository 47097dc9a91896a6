"""Every task draws its batches on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from workers.spec_tasks import DnaSpec, MqarSpec, SelectiveCopyingSpec, TaskSpec
from workers.tasks import IGNORE, Curriculum, build_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KINDS = {kind.model_fields["name"].default: kind for kind in get_args(get_args(TaskSpec)[0])}
VARIANTS: dict[str, TaskSpec] = {name: kind() for name, kind in KINDS.items() if kind is not DnaSpec} | {
    "selective-copying-mad": SelectiveCopyingSpec(layout="mad"),
    "selective-copying-blank": SelectiveCopyingSpec(layout="blank"),
    "mqar-several": MqarSpec(seqlen=64, kv_pairs=(2, 4, 8), filler="zero"),
    "mqar-curriculum": MqarSpec(seqlen=64, kv_pairs=(2, 4, 8), curriculum=True),
}


def check(spec: TaskSpec) -> None:
    task = build_task(spec)
    first, again, other = (
        task.sample(torch.Generator("cuda").manual_seed(seed), 5, torch.device("cuda")) for seed in (1, 1, 2)
    )
    held_out = next(iter(task.evaluation(3, 1, 5, torch.device("cuda"))))
    for batch in (first, other, held_out):
        assert batch.inputs.is_cuda
        assert batch.targets.is_cuda
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.inputs.shape == batch.targets.shape == (5, task.seqlen)
        assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < task.vocab_size
        supervised = batch.targets[batch.targets != IGNORE]
        assert supervised.numel() > 0
        assert 0 <= int(supervised.min()) <= int(supervised.max()) < task.vocab_size
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)
    if isinstance(task, Curriculum):
        drawn = task.sample_at(torch.Generator("cuda").manual_seed(1), 5, torch.device("cuda"), 0.5)
        assert drawn.inputs.is_cuda


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)
def test_samples_on_the_gpu(spec: TaskSpec) -> None:
    check(spec)


def test_dna_samples_on_the_gpu(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    bases = "".join("ACGT"[base] for base in torch.randint(0, 4, (20_000,), generator=generator))
    (tmp_path / "genome.fa").write_text(">chr1\n" + bases + "\n")
    check(DnaSpec(path=str(tmp_path / "genome.fa"), seqlen=256))
