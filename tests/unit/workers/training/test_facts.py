"""What a run notes about its data is enough to recognise it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workers.specs import CopyingSpec, TextSpec
from workers.tasks import build_task
from workers.training import facts


def test_text_is_noted_with_path_size_and_hash(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"to be" * 300_000)
    (tmp_path / "a.txt").write_bytes(b"or not" * 10)
    whole = (tmp_path / "a.txt").read_bytes() + (tmp_path / "b.txt").read_bytes()
    noted = facts.data_facts(build_task(TextSpec(path=str(tmp_path), seqlen=16)))
    assert noted == {
        "task": "text",
        "vocab_size": 256,
        "seqlen": 16,
        "path": str(tmp_path),
        "bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
    }


def test_generated_data_is_noted_by_its_sizes() -> None:
    noted = facts.data_facts(build_task(CopyingSpec(context=10, memorize=2, vocab=5)))
    assert noted == {"task": "copying", "vocab_size": 5, "seqlen": 12}
