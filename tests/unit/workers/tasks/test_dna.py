"""DNA from FASTA files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import TaskError
from workers.specs import DnaSpec
from workers.tasks import build_task, describe_example
from workers.tasks.dna import BASES, BaseStream, DnaTask


def written(folder: Path, text: str) -> Path:
    path = folder / "genome.fa"
    path.write_text(text)
    return path


def bases_of(path: Path) -> str:
    stream = BaseStream(path)
    return "".join(BASES[token] for token in stream.read(torch.tensor([0]), len(stream), "cpu")[0].tolist())


def test_headers_and_line_ends_are_no_bases_and_records_are_kept_apart(tmp_path: Path) -> None:
    path = written(tmp_path, ">chr1 ACGT > test\nACGT\r\nacgN\n>chr2\n\nTTRy-\n")
    assert bases_of(path) == "ACGTACGNNTTNNN"


@given(st.integers(1, 40), st.lists(st.text("ACGTN", min_size=1, max_size=30), min_size=1, max_size=4))
def test_the_size_of_what_is_read_at_once_makes_no_difference(size: int, records: list[str]) -> None:
    import tempfile
    from unittest.mock import patch

    with tempfile.TemporaryDirectory() as folder:
        path = written(
            Path(folder), "".join(f">r{i}\n{record[:7]}\n{record[7:]}\n" for i, record in enumerate(records))
        )
        with patch("workers.tasks.dna._READ_AT_ONCE", size):
            assert bases_of(path) == "N".join(records)


def test_windows_are_of_the_file_and_the_targets_one_further(tmp_path: Path) -> None:
    letters = "".join(
        BASES[i] for i in torch.randint(0, 4, (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    )
    task = build_task(DnaSpec(path=str(written(tmp_path, f">x\n{letters}\n")), seqlen=20))
    assert isinstance(task, DnaTask)
    batch = task.sample(torch.Generator().manual_seed(1), 8, "cpu")
    heldout = next(task.evaluation(0, 1, 4, "cpu"))
    for part, rows in ((letters[: task.split], batch), (letters[task.split :], heldout)):
        for inputs, targets in zip(rows.inputs.tolist(), rows.targets.tolist(), strict=True):
            window = "".join(BASES[token] for token in [inputs[0], *targets])
            assert window in part
            assert inputs[1:] == targets[:-1]
    assert task.vocab_size == 5
    shown = describe_example(task, 0).splitlines()
    assert shown[1].split()[1][1:] == shown[2].split()[1][:-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no base"), (">only a header\n", "holds no base"), ("ACGT\nhello\n", r"it holds b'e' among the bases")],
)
def test_a_file_that_is_no_fasta_says_so(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        BaseStream(written(tmp_path, text))


def test_a_missing_or_short_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        BaseStream(tmp_path / "none.fa")
    with pytest.raises(TaskError, match="is too small: its training part has 8 of 8 bases"):
        build_task(DnaSpec(path=str(written(tmp_path, "ACGTACGT")), seqlen=20))
