"""What `mambalab eval --loglikelihood` does: a JSON line a question, the model's log probabilities, accuracy.

A line is `{"context": .., "continuation": ..}` or `{"context": .., "choices": [..], "gold": 0}`. Text is as it follows the
context, a leading space included; in its place may stand token numbers. torch is imported where it is needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.errors import CommandError, bad_input

if TYPE_CHECKING:
    from workers.models import LanguageModel
    from workers.tasks.tokenizer import Tokenizer
    from workers.training.loglikelihood import Request, Score
    from workers.training.precision import Placement

BATCH_SIZE = 16

Sequenced = str | list[int]


@dataclass(frozen=True, slots=True)
class Question:
    """A line of the file. `gold` is None where a single continuation is scored; else which choice is right."""

    line: int
    context: Sequenced
    choices: tuple[Sequenced, ...]
    gold: int | None


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model that scores, where it computes, and its tokenizer; without one, only token numbers can be scored."""

    label: str
    model: LanguageModel
    placement: Placement
    tokenizer: Tokenizer | None
    batch_size: int = BATCH_SIZE

    def encode(self, context: Sequenced, continuation: Sequenced, where: str) -> Request:
        """Return a pair as tokens. White space at the context's end goes to the continuation, as in lm-eval.

        Before a continuation without context stands the tokenizer's prefix. Ends with bad input where text meets a model
        without a tokenizer, or nothing is left to score.
        """
        from workers.training.loglikelihood import Request

        if isinstance(context, str) and isinstance(continuation, str):
            if self.tokenizer is None:
                bad_input(
                    f"{where}: {self.label} has no tokenizer: give token numbers in place of text, or --tokenizer FILE"
                )
            before = self.tokenizer.encode(context.rstrip())
            request = Request(before or self._prefix(), self.tokenizer.encode(context + continuation)[len(before) :])
        elif isinstance(context, list) and isinstance(continuation, list):
            request = Request(context, continuation)
        else:
            bad_input(f"{where}: context and continuation must both be text or both be token numbers")
        if not request.continuation:
            bad_input(f"{where}: nothing to score: the continuation is empty")
        if not request.context:
            bad_input(
                f"{where}: the context is empty, and no token stands before a text here: the first has no prediction"
            )
        return request

    def _prefix(self) -> list[int]:
        return [] if self.tokenizer is None or self.tokenizer.prefix is None else [self.tokenizer.prefix]

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return the score of each request, in order.

        Raises:
            SpecError: a token that the model does not know, or a sequence that is too long for it.
            CommandError: out of memory.
        """
        from workers.training.determinism import reproducible
        from workers.training.errors import is_out_of_memory
        from workers.training.loglikelihood import score

        try:
            with reproducible(self.placement):
                return score(self.model, requests, self.batch_size, self.placement)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise CommandError(f"out of memory on {self.placement.device}: lower --batch-size") from error


def open_scorer(
    context: typer.Context | None,
    what: str,
    *,
    tokenizer: str | None = None,
    overrides: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
) -> Scorer:
    """Return the scorer of a run, a checkpoint's folder, or a folder with released weights (config.json).

    Raises:
        TaskError: the tokenizer cannot be read.
        CheckpointError: the weights cannot be read.
    """
    from workers.tasks.tokenizer import open_tokenizer
    from workers.training.errors import DeviceError
    from workers.training.precision import place

    folder = Path(what).expanduser()
    if (folder / "config.json").is_file():
        model, spec, own = _released(folder, overrides)
        label = str(folder)
    else:
        model, spec, own, label = _trained(context, what, overrides)
    try:
        placement = place(spec)
    except DeviceError as error:
        bad_input(str(error))
    chosen = own if tokenizer is None else open_tokenizer(tokenizer)
    return Scorer(label, model.to(placement.device), placement, chosen, batch_size)


def _released(folder: Path, overrides: Sequence[str]) -> tuple[LanguageModel, Any, Tokenizer | None]:
    from app.evaluation import check_overrides
    from workers.ablation import build_run
    from workers.models.interop import load_pretrained
    from workers.tasks.tokenizer import FileTokenizer

    check_overrides(overrides)
    own = folder / "tokenizer.json"
    spec = build_run(list(overrides), base={}, source="eval")
    return load_pretrained(folder), spec, FileTokenizer(own) if own.is_file() else None


def _trained(
    context: typer.Context | None, what: str, overrides: Sequence[str]
) -> tuple[LanguageModel, Any, Tokenizer | None, str]:
    from app.evaluation import changed_spec, find_checkpoint, trained_model
    from workers.specs import TextSpec
    from workers.tasks.tokenizer import open_tokenizer

    subject = find_checkpoint(context, what)
    task = subject.spec.task
    own = open_tokenizer(task.tokenizer) if isinstance(task, TextSpec) else None
    model = trained_model(subject)
    spec = changed_spec(subject.spec, None, overrides)
    return model, spec, own, f"{subject.checkpoint.folder.name} of {subject.run_id or subject.checkpoint.folder.parent}"


def evaluate_questions(scorer: Scorer, path: Path, *, as_json: bool) -> None:
    """Score a file's questions and print: a row each, and the summary as the last JSON key or on stderr."""
    questions = read_questions(path)
    requests = [
        scorer.encode(question.context, choice, f"{path}:{question.line}")
        for question in questions
        for choice in question.choices
    ]
    scores = iter(scorer.score(requests))
    tokens = iter(len(request.continuation) for request in requests)
    rows = [
        question_row(question, [next(scores) for _ in question.choices], [next(tokens) for _ in question.choices])
        for question in questions
    ]
    _print(scorer, path, rows, as_json=as_json)


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a JSONL file; empty lines are passed over. Ends with bad input at the first wrong line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        bad_input(f"--loglikelihood {str(path)!r} cannot be read: {error}")
    questions = [_question(text, f"{path}:{line}", line) for line, text in enumerate(lines, start=1) if text.strip()]
    if not questions:
        bad_input(f"--loglikelihood {str(path)!r} holds no question")
    return questions


def _question(text: str, where: str, line: int) -> Question:
    try:
        row = json.loads(text)
    except ValueError as error:
        bad_input(f"{where}: no JSON: {error}")
    form = '{"context": .., "continuation": ..} or {"context": .., "choices": [..], "gold": NUMBER}'
    if not isinstance(row, dict) or "context" not in row or ("continuation" in row) == ("choices" in row):
        bad_input(f"{where}: expected {form}")
    choices = [row["continuation"]] if "continuation" in row else row["choices"]
    if not isinstance(choices, list) or not choices or not all(map(_is_sequenced, [row["context"], *choices])):
        bad_input(f"{where}: text or lists of token numbers are expected in {form}")
    gold = row.get("gold") if "choices" in row else None
    if "choices" in row and (type(gold) is not int or not 0 <= gold < len(choices)):
        bad_input(f"{where}: gold must say which of the {len(choices)} choices is right, 0 .. {len(choices) - 1}")
    return Question(line, row["context"], tuple(choices), gold)


def _is_sequenced(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(type(item) is int for item in value))


def question_row(question: Question, scores: list[Score], tokens: list[int]) -> dict[str, Any]:
    """Return a question's row: its scores, and of several choices the likeliest, by the sum and by the length's share."""
    if question.gold is None:
        (only,) = scores
        return {"line": question.line, "logprob": only.logprob, "tokens": tokens[0], "greedy": only.greedy}
    logprobs = [score.logprob for score in scores]
    lengths = [len(choice.lstrip()) if isinstance(choice, str) else len(choice) for choice in question.choices]
    shares = [logprob / max(length, 1) for logprob, length in zip(logprobs, lengths, strict=True)]
    chosen = logprobs.index(max(logprobs))
    return {
        "line": question.line,
        "logprobs": logprobs,
        "tokens": tokens,
        "greedy": [score.greedy for score in scores],
        "choice": chosen,
        "gold": question.gold,
        "right": chosen == question.gold,
        "right_by_length": shares.index(max(shares)) == question.gold,
    }


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what the rows come to, as lm-eval names it.

    Of choices `acc`, and `acc_norm` where log probabilities are divided by the characters of the choice, the space before
    it left out, or by its token numbers; of single continuations `greedy`, the share that the model would have said,
    `logprob`, their mean, and `perplexity` of a token.
    """
    asked = [row for row in rows if "gold" in row]
    single = [row for row in rows if "gold" not in row]
    summary: dict[str, float] = {"questions": len(rows)}
    if asked:
        summary["acc"] = sum(row["right"] for row in asked) / len(asked)
        summary["acc_norm"] = sum(row["right_by_length"] for row in asked) / len(asked)
    if single:
        total = math.fsum(row["logprob"] for row in single)
        summary["greedy"] = sum(row["greedy"] for row in single) / len(single)
        summary["logprob"] = total / len(single)
        mean = -total / sum(row["tokens"] for row in single)
        summary["perplexity"] = math.inf if mean > 700 else math.exp(mean)  # exp overflows a float64 above 709
    return summary


def _print(scorer: Scorer, path: Path, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    from app.console import data_json, say, table
    from app.formats import number
    from app.grid import Grid, Layout

    summary = summarise(rows)
    if as_json:
        data_json({"model": scorer.label, "file": str(path), "rows": rows, "summary": summary})
        return
    cells = [_cells(row) for row in rows]
    titles = ["line", "logprob", "tokens", "greedy", "choice"]
    if all("gold" not in row for row in rows):
        titles, cells = titles[:-1], [line[:-1] for line in cells]
    table(Grid(titles, cells, Layout(right=titles[:3])))
    say(f"{scorer.label}: " + ", ".join(f"{name} {number(value)}" for name, value in summary.items()))


def _cells(row: dict[str, Any]) -> list[str]:
    """Return a row as printed: of several choices the likeliest."""
    from app.formats import number

    if "gold" not in row:
        return [str(row["line"]), number(row["logprob"]), str(row["tokens"]), "yes" if row["greedy"] else "no", ""]
    place = row["choice"]
    verdict = "right" if row["right"] else f"gold: {row['gold']}"
    greedy = "yes" if row["greedy"][place] else "no"
    return [
        str(row["line"]),
        number(row["logprobs"][place]),
        str(row["tokens"][place]),
        greedy,
        f"{place} ({verdict})",
    ]
