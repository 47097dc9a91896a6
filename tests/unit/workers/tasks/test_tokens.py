"""Text in the tokens of a tokenizer file: windows decode to the text, bits count bytes, and mistakes are named."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from workers.errors import TaskError
from workers.specs import TextSpec
from workers.tasks import EvalTotals, build_task, describe_example
from workers.tasks.text import BUNDLED, TextTask
from workers.tasks.tokenizer import FileTokenizer
from workers.tasks.tokenstream import TokenStream
from workers.training.facts import data_facts

TEXT = "the cat sat on the mat, the dog ate thé hat — naïve ☃ 🐍\n" * 40


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 tokens whose template and padding would add tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, BUNDLED.read_text()[:20_000]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_padding(length=7)
    tokenizer.enable_truncation(3)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.txt").write_text("an end without a newline", encoding="utf-8")
    return folder


def task_on(path: Path, tokenizer: Path, **changes: float) -> TextTask:
    spec = {"path": str(path), "tokenizer": str(tokenizer), "seqlen": 8, "valid_fraction": 0.1, **changes}
    return TextTask(TextSpec.model_validate(spec))


def test_the_stream_decodes_to_the_corpus_and_nothing_is_added(corpus: Path, bpe: Path) -> None:
    tokenizer = FileTokenizer(bpe)
    stream = TokenStream(corpus, tokenizer)
    tokens = stream.read(torch.tensor([0]), len(stream), "cpu")[0].tolist()
    assert tokenizer.decode(tokens) == TEXT + "an end without a newline"
    assert len(stream) < stream.bytes
    assert tokenizer.prefix == 0
    assert 0 not in tokens


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_blocks_do_not_change_where_bytes_lie(
    corpus: Path, bpe: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.tasks import tokenstream

    monkeypatch.setattr(tokenstream, "_BLOCK", block)
    tokenstream._tokenized.cache_clear()
    tokenizer = FileTokenizer(bpe)
    stream = TokenStream(corpus, tokenizer)
    tokens = stream.read(torch.tensor([0]), len(stream), "cpu")[0].tolist()
    text = (TEXT + "an end without a newline").encode()
    assert stream.bytes_from(0) == len(text)
    assert stream.bytes_from(len(stream)) == 0
    for place in (1, 5, len(tokens) // 2, len(tokens) - 1):
        rest = tokenizer.decode(tokens[place:])
        if "\ufffd" not in rest:  # a token may start inside a character
            assert stream.bytes_from(place) == len(rest.encode())
    tokenstream._tokenized.cache_clear()


def test_windows_are_shifted_by_one_and_equal_seeds_give_equal_batches(corpus: Path, bpe: Path) -> None:
    task = task_on(corpus, bpe)
    first, again, other = (task.sample(torch.Generator().manual_seed(seed), 4, "cpu") for seed in (1, 1, 2))
    assert torch.equal(first.inputs[:, 1:], first.targets[:, :-1])
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.inputs.dtype == torch.int64
    assert task.vocab_size == 300


def test_bits_are_counted_by_byte(corpus: Path, bpe: Path) -> None:
    task = task_on(corpus, bpe)
    totals = EvalTotals()
    totals.add(torch.zeros(2, 3, task.vocab_size), torch.randint(0, task.vocab_size, (2, 3)))
    metrics = task.metrics(totals)
    heldout = task._bytes.read(torch.tensor([task.split]), len(task._bytes) - task.split, "cpu")[0].tolist()
    bytes_held_out = len(FileTokenizer(bpe).decode(heldout).encode())
    assert metrics["valid/bpb"] == pytest.approx(math.log2(300) * len(heldout) / bytes_held_out)
    assert metrics["valid/perplexity"] == pytest.approx(300, rel=1e-6)


def test_an_example_shows_pieces_and_numbers(corpus: Path, bpe: Path) -> None:
    task = task_on(corpus, bpe)
    head, inputs, targets, numbers, shifted = describe_example(task, 0).splitlines()
    assert head == "text: 8 positions, 300 tokens"
    batch = task.sample(torch.Generator().manual_seed(0), 1, "cpu")
    decode = FileTokenizer(bpe).decode
    for line, of_numbers, row in ((inputs, numbers, batch.inputs[0]), (targets, shifted, batch.targets[0])):
        assert line.split(maxsplit=1)[1] == " ".join(repr(decode([token])) for token in row.tolist())
        assert [int(number) for number in of_numbers.split()[1:]] == row.tolist()


def test_the_record_names_the_tokenizer(corpus: Path, bpe: Path) -> None:
    facts = data_facts(task_on(corpus, bpe))
    assert facts["tokenizer"] == str(bpe)
    assert len(str(facts["tokenizer_sha256"])) == 64
    assert "tokenizer" not in data_facts(build_task(TextSpec()))


def test_mistakes_are_named(corpus: Path, bpe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="is no file, seen from"):
        task_on(corpus, tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(TaskError, match=r"cannot be read.*Expected a tokenizer\.json"):
        task_on(corpus, tmp_path / "broken.json")
    (corpus / "a.txt").write_bytes(b"caf\xe9 " * 300)
    with pytest.raises(TaskError, match="byte 3 of a file is no UTF-8"):
        task_on(corpus, bpe)
    (corpus / "a.txt").write_text("short ")
    with pytest.raises(TaskError, match="of .* tokens and a window needs 9"):
        task_on(corpus, bpe)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TaskError, match=r"pip install 'mambalab\[text\]'"):
        FileTokenizer(bpe)
