"""The adapter under the real `lm_eval`: a task of choices and a text, scored by it and by `mambalab eval --loglikelihood`.

Runs where lm_eval and datasets are installed, and is skipped elsewhere: mambalab depends on neither.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.loglikelihood import Question, open_scorer, question_row, summarise
from workers.specs import RunSpec
from workers.training import MemorySink, RunContext, run_trial

if TYPE_CHECKING:
    from app.loglikelihood import Scorer

# what these packages and theirs warn of at import is not ours to mend
pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "the cat sat on the mat\n"
ROWS: list[dict[str, Any]] = [
    {"context": "the cat", "choices": ["sat", "flew away", "on"], "gold": 0},
    {"context": "the cat sat", "choices": ["mat", "on the mat"], "gold": 1},
    {"context": "the cat sat on the", "choices": ["xylophone", "mat", "cat"], "gold": 1},
    {"context": "on the", "choices": ["mat", "dog"], "gold": 0},
]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT * 100)
    tree = {
        "model": {"d_model": 16, "n_layer": 1, "d_state": 4},
        "task": {"name": "text", "seqlen": 32, "path": str(folder / "text.txt")},
        "train": {"steps": 60, "batch_size": 4, "lr": 1e-2, "eval_batches": 1, "device": "cpu", "threads": 1},
    }
    spec = RunSpec.model_validate_json(json.dumps(tree))
    result = run_trial(spec, RunContext("tiny", 1, folder / "run", MemorySink()))
    assert result.checkpoint is not None
    return open_scorer(None, str(folder / "run" / result.checkpoint))


def evaluate(scorer: Scorer, tmp_path: Path, rows: list[dict[str, Any]], **task: Any) -> dict[str, Any]:
    import lm_eval

    from app.harness import harness_model

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    config = {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        **task,
    }
    found = lm_eval.simple_evaluate(model=harness_model(scorer), tasks=[config], bootstrap_iters=0, log_samples=False)
    scores: dict[str, Any] = found["results"]["local"]
    return scores


def test_choices_count_as_ours_do(scorer: Scorer, tmp_path: Path) -> None:
    scores = evaluate(
        scorer,
        tmp_path,
        ROWS,
        output_type="multiple_choice",
        doc_to_text="{{context}}",
        doc_to_choice="{{choices}}",
        doc_to_target="gold",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    ours = []
    for line, row in enumerate(ROWS):
        choices = tuple(f" {choice}" for choice in row["choices"])  # lm_eval puts its delimiter, a space, before each
        question = Question(line, row["context"], choices, row["gold"])
        pairs = [scorer.encode(question.context, choice, "") for choice in choices]
        ours.append(question_row(question, scorer.score(pairs), [len(pair.continuation) for pair in pairs]))
    expected = summarise(ours)
    assert scores["acc,none"] == expected["acc"]
    assert scores["acc_norm,none"] == expected["acc_norm"]
    assert scores["acc,none"] > 0.5  # a text of one line is soon learned


def test_a_text_is_as_likely_as_ours_says(scorer: Scorer, tmp_path: Path) -> None:
    scores = evaluate(
        scorer,
        tmp_path,
        [{"text": TEXT}, {"text": TEXT * 2}],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="text",
        metric_list=[{"metric": "bits_per_byte"}],
    )
    texts = [TEXT, TEXT * 2]
    logprobs = [score.logprob for score in scorer.score([scorer.encode("", text, "") for text in texts])]
    bits = -sum(logprobs) / math.log(2) / sum(len(text.encode()) for text in texts)
    assert scores["bits_per_byte,none"] == pytest.approx(bits)
