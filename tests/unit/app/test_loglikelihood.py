"""`mambalab eval --loglikelihood`: questions of a file, of bytes, tokens and numbers, and what is said of wrong ones."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from app.errors import CommandError
from app.loglikelihood import Question, open_scorer, question_row, summarise
from app.main import run
from storage.home import HomePaths
from storage.queries import Reader
from workers.models import build_model
from workers.models.interop import save_pretrained
from workers.specs import ModelSpec
from workers.training.loglikelihood import Score

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call

TINY = {
    "model.d_model": 8,
    "model.n_layer": 1,
    "model.d_state": 4,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.eval_batches": 1,
    "train.device": "cpu",
}


@dataclass(frozen=True)
class Trained:
    """Completed runs: of bytes, of a tokenizer's tokens, and of a task without text. `tokenizer` is the file."""

    home: Path
    runs: dict[str, str]
    tokenizer: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the cat sat on the mat\n" * 100)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat\n" * 100], trainer)
    tokenizer.save(str(folder / "bpe.json"))
    text = {"task.name": "text", "task.seqlen": 8, "task.path": str(folder / "text.txt")}
    tasks: dict[str, dict[str, Any]] = {
        "bytes": text,
        "tokens": text | {"task.tokenizer": str(folder / "bpe.json")},
        "numbers": {"task.name": "induction-heads", "task.seqlen": 16, "task.vocab": 8},
    }
    here, runs = Path.cwd(), {}
    os.chdir(folder)
    try:
        for name, task in tasks.items():
            words = [word for key, value in (TINY | task).items() for word in ("--set", f"{key}={value}")]
            with pytest.raises(SystemExit) as ended:
                run(["--home", str(folder / "lab"), "run", "--name", name, "--executor", "inline", *words])
            assert not ended.value.code
    finally:
        os.chdir(here)
    with Reader(HomePaths(folder / "lab")) as store:
        runs = {row.name: row.id for row in store.runs()}
    return Trained(folder / "lab", runs, folder / "bpe.json")


@pytest.fixture(autouse=True)
def at_home(trained: Trained, monkeypatch: pytest.MonkeyPatch, home: HomePaths) -> None:
    monkeypatch.setenv("MAMBALAB_HOME", str(trained.home))


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


CHOICES = {"context": "the cat", "choices": [" sat", " flew away", " mat"], "gold": 0}
SINGLE = {"context": "the", "continuation": " cat"}


@pytest.mark.parametrize("name", ["bytes", "tokens"])
def test_choices_and_continuations_are_scored(call: Call, trained: Trained, tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "q.jsonl", CHOICES, SINGLE)
    done = call("eval", trained.runs[name], "--loglikelihood", file, "--json")
    assert done.code == 0, done.stderr
    asked, single = done.json["rows"]
    assert asked["choice"] == asked["logprobs"].index(max(asked["logprobs"]))
    assert asked["right"] == (asked["choice"] == 0)
    assert single["tokens"] == (4 if name == "bytes" else 1)
    assert single["logprob"] < 0
    assert done.json["summary"]["acc"] == float(asked["right"])
    assert {"acc_norm", "greedy", "perplexity"} <= set(done.json["summary"])
    one = call("eval", trained.runs[name], "--loglikelihood", file, "--batch-size", "1", "--json").json["rows"]
    assert one[0]["logprobs"] == pytest.approx(asked["logprobs"], rel=1e-5)


def test_a_table_is_printed(call: Call, trained: Trained, tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", SINGLE, CHOICES)
    header, single, asked = (
        line.split("\t") for line in call("eval", trained.runs["bytes"], "--loglikelihood", file).stdout.splitlines()
    )
    assert header == ["line", "logprob", "tokens", "greedy", "choice"]
    assert (single[0], single[2], single[4]) == ("1", "4", "")
    assert asked[0] == "2"
    only = call("eval", trained.runs["bytes"], "--loglikelihood", write(tmp_path / "s.jsonl", SINGLE))
    assert only.stdout.splitlines()[0].split("\t") == header[:-1]
    assert "perplexity" in only.stderr


def test_numbers_need_no_tokenizer_and_text_does(call: Call, trained: Trained, tmp_path: Path) -> None:
    file = write(tmp_path / "n.jsonl", {"context": [7, 3, 7], "choices": [[3], [2]], "gold": 0})
    done = call("eval", trained.runs["numbers"], "--loglikelihood", file, "--json")
    assert done.code == 0, done.stderr
    text = call("eval", trained.runs["numbers"], "--loglikelihood", write(tmp_path / "t.jsonl", SINGLE))
    assert text.code == 2
    assert "has no tokenizer" in text.stderr
    unknown = write(tmp_path / "u.jsonl", {"context": [7], "continuation": [8]})
    assert (
        "token 8, and the model knows 0 .. 7"
        in call("eval", trained.runs["numbers"], "--loglikelihood", unknown).stderr
    )


def test_the_space_before_a_word_belongs_to_it(trained: Trained) -> None:
    """As lm-eval does: ' cat' is one token, and 'the ' would tear it apart."""
    folder = HomePaths(trained.home).checkpoints(trained.runs["tokens"]) / "step-000002"
    scorer = open_scorer(None, str(folder))
    assert scorer.tokenizer is not None
    apart, together = scorer.encode("the ", "cat", "here"), scorer.encode("the", " cat", "here")
    assert (apart.context, apart.continuation) == (together.context, together.continuation)
    assert len(together.continuation) == 1
    line = scorer.encode("the cat\n", "the", "here")
    assert line.context == scorer.encode("the cat", "x", "here").context


def test_without_context_the_prefix_stands_before_the_text(trained: Trained) -> None:
    of_bytes, of_tokens = (
        open_scorer(None, str(HomePaths(trained.home).checkpoints(trained.runs[name]) / "step-000002"))
        for name in ("bytes", "tokens")
    )
    assert of_bytes.encode("", "a", "here").context == [ord("\n")]
    with pytest.raises(CommandError, match="no token stands before a text here"):
        of_tokens.encode("", "a", "here")  # this tokenizer names no end of text


def test_released_weights_are_scored_with_the_tokenizer_beside_them(
    call: Call, trained: Trained, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_pretrained(build_model(ModelSpec(d_model=8, n_layer=1, d_state=4), 272), tmp_path / "hub", "hf")
    file = write(tmp_path / "q.jsonl", SINGLE)
    assert "has no tokenizer" in call("eval", "hub", "--loglikelihood", file).stderr
    named = call("eval", "hub", "--loglikelihood", file, "--tokenizer", str(trained.tokenizer), "--json")
    (tmp_path / "hub" / "tokenizer.json").write_bytes(trained.tokenizer.read_bytes())
    found = call("eval", "hub", "--loglikelihood", file, "--set", "train.device=cpu", "--json")
    assert found.json["rows"] == named.json["rows"]
    assert found.json["rows"][0]["tokens"] == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "q.jsonl:1: no JSON"),
        ("[]", "expected {"),
        ('{"context": "a"}', "expected {"),
        ('{"context": "a", "continuation": "b", "choices": ["c"]}', "expected {"),
        ('{"context": "a", "continuation": 3}', "text or lists of token numbers"),
        ('{"context": "a", "choices": []}', "text or lists of token numbers"),
        ('{"context": "a", "choices": ["b"]}', "gold must say which of the 1 choices"),
        ('{"context": "a", "choices": ["b"], "gold": 1}', "gold must say"),
        ('{"context": "a", "continuation": [98]}', "must both be text or both be token numbers"),
        ('{"context": [], "continuation": [1]}', "the context is empty"),
        ('{"context": "a", "continuation": ""}', "nothing to score"),
        ("", "holds no question"),
    ],
)
def test_wrong_lines_are_bad_input(call: Call, trained: Trained, tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "q.jsonl").write_text(row)
    done = call("eval", trained.runs["bytes"], "--loglikelihood", "q.jsonl")
    assert done.code == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loglikelihood", "none.jsonl"], "cannot be read"),
        (["--loglikelihood", "q.jsonl", "--lengths", "8"], "takes neither"),
        (["--loglikelihood", "q.jsonl", "--set", "model.d_model=4"], "a trained model is evaluated as it is"),
        (["--tokenizer", "x.json"], "belongs to --loglikelihood"),
    ],
)
def test_options_that_do_not_fit_are_bad_input(
    call: Call, trained: Trained, tmp_path: Path, words: list[str], said: str
) -> None:
    write(tmp_path / "q.jsonl", SINGLE)
    done = call("eval", trained.runs["bytes"], *words)
    assert done.code == 2
    assert said in done.stderr


def test_the_summary_counts_each_kind_by_itself() -> None:
    rows: list[dict[str, Any]] = [
        {"gold": 0, "right": True, "right_by_length": False},
        {"gold": 1, "right": False, "right_by_length": False},
        {"logprob": -2.0, "tokens": 4, "greedy": True},
        {"logprob": -4.0, "tokens": 2, "greedy": False},
    ]
    summary = summarise(rows)
    assert (summary["questions"], summary["acc"], summary["acc_norm"], summary["greedy"]) == (4, 0.5, 0, 0.5)
    assert summary["logprob"] == -3
    assert summary["perplexity"] == pytest.approx(2.718281828)
    assert "acc" not in summarise(rows[2:])


def test_the_norm_is_by_characters_without_the_space() -> None:
    """A score of -6 is the best for a choice of six characters, and -4 the best as it is."""
    question = Question(1, "a", (" abcdef", " abc", "x"), 0)
    row = question_row(question, [Score(-6.0, False), Score(-4.0, False), Score(-5.0, False)], [6, 3, 1])
    assert (row["choice"], row["right"], row["right_by_length"]) == (1, False, True)


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the package, of which only the base class is used."""
    package, api, model = ModuleType("lm_eval"), ModuleType("lm_eval.api"), ModuleType("lm_eval.api.model")
    model.LM = type("LM", (), {})  # type: ignore[attr-defined]
    for module in (package, api, model):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@dataclass(frozen=True)
class Instance:
    """What lm_eval hands over."""

    args: tuple[str, ...]


@pytest.mark.usefixtures("lm_eval")
def test_the_harness_gets_the_same_scores(trained: Trained) -> None:
    from app.harness import harness_model

    folder = HomePaths(trained.home).checkpoints(trained.runs["bytes"]) / "step-000002"
    scorer = open_scorer(None, str(folder))
    model = harness_model(scorer)
    (pair,) = model.loglikelihood([Instance(("the", " cat"))])
    (expected,) = scorer.score([scorer.encode("the", " cat", "")])
    assert pair == (expected.logprob, expected.greedy)
    (rolling,) = model.loglikelihood_rolling([Instance(("the cat",))])
    assert rolling == pytest.approx(scorer.score([scorer.encode("", "the cat", "")])[0].logprob)
    assert model.loglikelihood([Instance(("", "the cat"))])[0][0] == pytest.approx(rolling)
    with pytest.raises(NotImplementedError):
        model.generate_until([])
