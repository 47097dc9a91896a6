"""Text: windows are pieces of the file, targets are shifted by one, and held-out text is never trained on."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import TaskError
from workers.specs import TextSpec
from workers.tasks import EvalTotals, build_task, describe_example
from workers.tasks.bytestream import ByteStream
from workers.tasks.text import BUNDLED, TextTask


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which each 4-byte word is its own number: every window says where it comes from."""
    path = tmp_path_factory.mktemp("text") / "counted.txt"
    path.write_text("".join(f"{number:03d} " for number in range(1000)))
    return path


def rows(tensor: torch.Tensor) -> list[bytes]:
    return [bytes(row) for row in tensor.tolist()]


def task_on(path: Path, seqlen: int = 16, valid_fraction: float = 0.1) -> TextTask:
    return TextTask(TextSpec(path=str(path), seqlen=seqlen, valid_fraction=valid_fraction))


@given(seed=st.integers(0, 2**63 - 1), seqlen=st.integers(7, 300), fraction=st.floats(0.1, 0.9))
def test_windows_come_from_their_own_side_of_the_split(counted: Path, seed: int, seqlen: int, fraction: float) -> None:
    task = task_on(counted, seqlen, fraction)
    text = counted.read_bytes()
    train, valid = text[: task.split], text[task.split :]
    assert len(valid) == round(len(text) * fraction)
    batch = task.sample(torch.Generator().manual_seed(seed), 16, "cpu")
    heldout = next(task.evaluation(seed, 1, 16, "cpu"))
    for inputs, targets, home, other in (
        *((*pair, train, valid) for pair in zip(rows(batch.inputs), rows(batch.targets), strict=True)),
        *((*pair, valid, train) for pair in zip(rows(heldout.inputs), rows(heldout.targets), strict=True)),
    ):
        assert inputs[1:] == targets[:-1]
        window = inputs + targets[-1:]
        assert window in home
        assert window not in other


def test_training_reaches_the_first_and_the_last_byte_before_the_split(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_bytes(bytes(range(1, 41)))
    task = task_on(path, seqlen=4, valid_fraction=0.25)
    batch = task.sample(torch.Generator().manual_seed(0), 2000, "cpu")
    assert (int(batch.inputs.min()), int(batch.targets.max())) == (1, 30)


def test_heldout_windows_cover_the_end_once_before_they_repeat(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_bytes(bytes(range(1, 101)))
    task = task_on(path, seqlen=4, valid_fraction=0.21)
    first, second = task.evaluation(0, 2, task.heldout_windows, "cpu")
    assert sorted(first.targets.flatten().tolist()) == list(range(81, 101))
    assert torch.equal(first.targets, second.targets)


def test_equal_seeds_give_equal_batches_and_others_do_not(counted: Path) -> None:
    task = task_on(counted)
    first, again, other = (task.sample(torch.Generator().manual_seed(seed), 8, "cpu").inputs for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_cut_into_batches_does_not_change_the_heldout_stream(counted: Path) -> None:
    task = task_on(counted)
    whole = next(task.evaluation(3, 1, 12, "cpu")).inputs
    assert torch.equal(torch.cat([batch.inputs for batch in task.evaluation(3, 4, 3, "cpu")]), whole)


def test_a_folder_is_its_text_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, text in (("b.txt", "second "), ("a/z.md", "first "), ("c.TXT", "third"), ("d.txt", ""), ("e.py", "no")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    stream = ByteStream(tmp_path)
    joined = b"first second third"
    assert len(stream) == len(joined)
    starts = torch.arange(len(joined) - 6)
    assert rows(stream.read(starts, 7, "cpu")) == [joined[start : start + 7] for start in starts]


def test_one_run_may_read_what_it_may_not_write(tmp_path: Path) -> None:
    path = tmp_path / "locked.txt"
    path.write_text("to be or not to be " * 10)
    path.chmod(0o444)
    assert task_on(path, seqlen=4).sample(torch.Generator().manual_seed(0), 2, "cpu").inputs.shape == (2, 4)
    assert path.read_text() == "to be or not to be " * 10


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "missing.txt", "neither a file nor a folder.*leave it out for the bundled"),
        ({}, "", r"a folder without .txt or .md files"),
        ({"a.txt": b""}, "a.txt", "holds no text: every file is empty"),
        ({"a.txt": b"", "b.md": b""}, "", "holds no text: every file is empty"),
        ({"a.txt": b"text\0text" * 99}, "a.txt", r"binary or UTF-16 \(byte 4 is NUL\)"),
        ({"a.txt": b"t" * 99, "b.txt": b"\0"}, "", "b.txt' is binary"),
        ({"a.txt": b"t" * 150}, "a.txt", "its held-out part has 15 of 150 bytes and a window needs 17"),
        ({"a.txt": b"t" * 18}, "a.txt", "its training part has 16 of 18 bytes"),
    ],
)
def test_unusable_paths_say_what_is_wrong(tmp_path: Path, files: dict[str, bytes], path: str, message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=message):
        build_task(TextSpec(path=str(tmp_path / path), seqlen=16, valid_fraction=0.1))


def test_metrics_are_of_bytes() -> None:
    totals = EvalTotals("cpu")
    totals.add(torch.zeros(2, 3, 256), torch.randint(0, 256, (2, 3)))
    metrics = build_task(TextSpec()).metrics(totals)
    assert set(metrics) == {"valid/loss", "valid/accuracy", "valid/bpb", "valid/perplexity"}
    assert metrics["valid/bpb"] == pytest.approx(8)
    assert metrics["valid/perplexity"] == pytest.approx(256, rel=1e-6)
    totals.loss += 1e5
    assert build_task(TextSpec()).metrics(totals)["valid/perplexity"] == math.inf


def test_the_bundled_text_is_the_one_its_readme_describes() -> None:
    readme = (BUNDLED.parent / "README.md").read_text()
    content = BUNDLED.read_bytes()
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme
    assert content.isascii()
    assert b"Gutenberg" not in content


def test_an_example_shows_the_shift() -> None:
    _, inputs, targets = describe_example(build_task(TextSpec(seqlen=20)), 0).splitlines()
    shown_inputs, shown_targets = (eval(row.split(maxsplit=1)[1]) for row in (inputs, targets))
    assert len(shown_inputs) == 20
    assert shown_inputs[1:] == shown_targets[:-1]
