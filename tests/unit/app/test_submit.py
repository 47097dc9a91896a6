"""`mambalab submit` and `run`: what is checked and printed before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.measured import unknown_metrics
from app.presets import find_ablation
from storage.home import HomePaths
from storage.queries import Reader
from workers.ablation import load_ablation, plan_runs
from workers.jobs.submission import SubmitOptions

if TYPE_CHECKING:
    from tests.unit.app.conftest import Call

MINE = """
question = "Why?"
seeds = [3, 4]
[metric]
key = "valid/accuracy"
direction = "max"
[baseline.task]
name = "copying"
context = 16
memorize = 4
[baseline.train]
steps = 10
batch_size = 2
[[axes]]
key = "model.d_state"
values = [4, 8]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """An ablation of two trials and two seeds."""
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def test_a_dry_run_prints_the_plan_and_writes_nothing(call: Call, mine: Path, home: HomePaths) -> None:
    done = call("submit", "mine.toml", "--dry-run")
    assert done.code == 0
    header, first, second = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["trial", "model.d_state", "seeds", "parameters", "steps", "tokens"]
    assert first[:3] == ["0", "4", "3,4"]
    assert first[4:] == ["10", "400"]  # 10 steps of 2 sequences of 16 + 4 tokens
    assert int(second[3].replace(",", "")) > int(first[3].replace(",", "")) > 10_000
    assert "2 trials x 2 seeds = 4 runs" in done.stderr
    operations = sum(6 * 2 * 400 * int(line[3].replace(",", "")) for line in (first, second))
    assert f"about {operations:.1e} floating-point operations" in done.stderr
    assert not home.root.exists()


def test_counts_of_one_are_singular(call: Call, mine: Path) -> None:
    mine.write_text(MINE.replace("[3, 4]", "[3]").split("[[axes]]")[0])
    assert "1 trial x 1 seed = 1 run, " in call("submit", "mine.toml", "--dry-run").stderr


VARIANTS = """
[[axes]]
name = "size"
[[axes.variants]]
label = "small"
set = { "model.d_state" = 4, "train.steps" = 5 }
[[axes.variants]]
label = "large"
set = { "model.d_state" = 8 }
"""


def test_a_change_that_some_trials_overrule_is_said(call: Call, mine: Path) -> None:
    mine.write_text(MINE.split("[[axes]]")[0] + VARIANTS)
    done = call("submit", "mine.toml", "--dry-run", "--set", "train.steps=20", "--json")
    assert [trial["steps"] for trial in done.json["trials"]] == [5, 20]
    assert "--set train.steps=20: the axis 'size' sets train.steps itself where it is small" in done.stderr
    mine.write_text('design = "one-at-a-time"\n' + MINE)
    done = call("submit", "mine.toml", "--dry-run", "--set", "model.d_state=16")
    assert done.code == 0  # the baseline is a trial of its own there
    assert "sets model.d_state itself" in done.stderr


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("valid/acuracy", "warning: no run of this ablation will have the metric 'valid/acuracy'. Did you mean 'valid/accuracy'?"),
        ("valid/bpb", "warning: no run of this ablation will have the metric 'valid/bpb'."),
        ("valid/accuracy@64", "warning: no run of this ablation will have the metric 'valid/accuracy@64'."),
        ("valid/accuracy", ""), ("train/loss", ""), ("system/gpu_percent", ""), ("probe/dt@0", ""),
    ],
)  # fmt: skip
def test_a_metric_that_no_run_will_have_is_said(call: Call, mine: Path, key: str, told: str) -> None:
    mine.write_text(MINE.replace("valid/accuracy", key))
    done = call("submit", "mine.toml", "--dry-run")
    assert done.code == 0
    assert ("warning" in done.stderr) == bool(told)
    assert told in done.stderr
    mine.write_text(MINE.replace("valid/accuracy", "valid/accuracy@64"))
    assert "warning" not in call("submit", "mine.toml", "--dry-run", "--set", "train.eval_lengths=[64]").stderr


def test_the_presets_decide_by_metrics_that_their_runs_have(call: Call) -> None:
    for preset in call("presets", "--json").json:
        spec = load_ablation(find_ablation(preset["name"]))
        assert unknown_metrics(spec, plan_runs(spec, "")) == []


def test_a_dry_run_as_json(call: Call, mine: Path) -> None:
    plan = call("submit", "mine.toml", "--dry-run", "--json", "--seeds", "3", "--set", "train.steps=20").json
    assert plan["runs"] == 6
    assert plan["seeds"] == [0, 1, 2]
    assert [trial["labels"] for trial in plan["trials"]] == [{"model.d_state": "4"}, {"model.d_state": "8"}]
    assert plan["trials"][0]["steps"] == 20
    assert plan["tokens"] == 6 * 20 * 2 * 20


def test_submitting_returns_at_once_with_id_and_three_commands(
    call: Call, mine: Path, home: HomePaths, started: list[SubmitOptions]
) -> None:
    done = call("submit", "mine.toml", "--priority", "2", "--name", "other")
    assert done.code == 0
    ablation_id = done.stdout.strip()
    with Reader(home) as reader:
        ablation = reader.ablation(ablation_id)
        runs = reader.runs(ablation_id=ablation_id)
        provenance = reader.provenance(runs[0].id)
    assert ablation.name == "other"
    assert [(run.trial_label, run.seed, run.status, run.priority) for run in runs] == [
        ("4", 3, "queued", 2),
        ("4", 4, "queued", 2),
        ("8", 3, "queued", 2),
        ("8", 4, "queued", 2),
    ]
    assert provenance is not None
    assert [options.executor for options in started] == ["ray"]
    for words in ("mambalab ui", f"mambalab table {ablation_id}", f"mambalab cancel {ablation_id}"):
        assert words in done.stderr


def test_a_home_that_was_named_is_named_in_the_commands_to_follow(
    call: Call, mine: Path, tmp_path: Path, started: list[SubmitOptions]
) -> None:
    done = call("--home", "else where", "submit", "mine.toml")
    assert done.code == 0
    assert (tmp_path / "else where" / "lab.db").is_file()
    assert "mambalab --home 'else where' ui" in done.stderr


def test_submitting_as_json(call: Call, mine: Path, started: list[SubmitOptions]) -> None:
    submitted = call("submit", "mine.toml", "--json").json
    assert len(submitted["run_ids"]) == 4


def test_a_single_run_is_queued(call: Call, home: HomePaths, started: list[SubmitOptions]) -> None:
    done = call("run", "--detach", "--set", "task.name=copying", "--seed", "5", "--name", "alone")
    assert done.code == 0
    with Reader(home) as reader:
        run = reader.run(done.stdout.strip())
    assert (run.name, run.seed, run.status, run.ablation) == ("alone", 5, "queued", None)
    assert run.config["task.name"] == "copying"
    assert f"mambalab logs -f {run.id}" in done.stderr


def test_a_relative_text_becomes_absolute(
    call: Call, tmp_path: Path, home: HomePaths, started: list[SubmitOptions]
) -> None:
    """Workers run in folders of their own, so a relative path would not be found there."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "corpus.txt").write_text("text " * 1000)
    (tmp_path / "study" / "bpe.json").write_text("{}")
    text = '[baseline.task]\nname = "text"\npath = "corpus.txt"\ntokenizer = "bpe.json"\nseqlen = 16\n'
    (tmp_path / "study" / "mine.toml").write_text(text)
    done = call("submit", "study/mine.toml")
    assert done.code == 0
    with Reader(home) as reader:
        (run,) = reader.runs(ablation_id=done.stdout.strip())
    assert run.config["task.path"] == str((tmp_path / "study" / "corpus.txt").resolve())
    assert run.config["task.tokenizer"] == str((tmp_path / "study" / "bpe.json").resolve())
    assert call("run", "--detach", "--set", "task.name=text", "--set", "task.path=study/corpus.txt").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["submit", "mine.toml", "--set", "model.d_sate=8"],
            "error: --set: unknown key `model.d_sate`: did you mean `model.d_state`?",
        ),
        (["submit", "mine.toml", "--set", "model.d_state=many"], "error: --set: key `model.d_state`"),
        (["submit", "mine.toml", "--set", "model.d_state"], "expected KEY=VALUE"),
        (["submit", "mine.toml", "--seeds", "few"], "expected a count such as 3 or a list"),
        (["submit", "mine.toml", "--seeds", "0"], "expected a count of at least 1"),
        (["submit", "mine.toml", "--seeds", "1,1"], "seeds must differ"),
        (["submit", "mine.toml", "--seeds", "99999999"], "at most 100,000"),
        (["submit", "mine.toml", "--seeds", "0,-5"], "seeds must be at least 0 and below 2147483648, got -5"),
        (["submit", "mine.toml", "--priority", "9" * 23], "expected a whole number of at most 1,000,000"),
        (["submit", "mine.toml", "--set", "train.steps=" + "9" * 23], "less than or equal to 1000000000000"),
        (
            ["submit", "mine.toml", "--set", "model.d_state=16"],
            "no trial would show it, because the axis 'model.d_state'",
        ),
        (
            ["submit", "mine.toml", "--set", "model.inner=s5"],
            "got 's5', expected one of s6, s4d, hyena: did you mean 's6'?",
        ),
        (["run", "--set", "task.name=mqr"], "did you mean 'mqar'?"),
        (["run", "--set", "task.context=5"], "add it, such as --set task.name=NAME"),
        (["run", "--name", "a\nb"], "expected one line"),
        (["run", "--name", "x" * 201], "of 201 characters"),
        (["submit", "mine.toml", "--executor", "slurm"], "expected one of ray, subprocess, inline"),
        (["submit", "mine.toml", "--name", "No Name"], "--name: key `name`"),
        (["submit", "mine.toml", "--address", "head"], "--address: got 'head', expected HOST:PORT"),
        (["run", "--address", "ray://head:10001"], "expected HOST:PORT of a Ray head"),
        (["run", "--address", "head:6379", "--executor", "subprocess"], "which joins no cluster"),
        (["submit", "mime.toml"], "no such file"),
        (["submit", "dem"], "Did you mean 'demo'?"),
        (["submit"], "Missing argument"),
        (["submit", "mine.toml", "--dry-rum"], "--dry-run"),
        (["submit", "broken.toml"], "not valid TOML"),
        (["submit", "empty-axis.toml"], "needs either `values` or `variants`"),
        (["submit", "doubled.toml"], "are the same run"),
        (
            ["submit", "mine.toml", "--set", "task={name='text', path='no.txt'}"],
            "'no.txt' is neither a file nor a folder",
        ),
        (["submit", "mine.toml", "--dry-run", "--set", "task={name='text', path='mine.toml'}"], "too small"),
        (["run", "--set", "modl.d_state=8"], "unknown key"),
        (["run", "--seed", "-1"], "of at least 0"),
        (["task", "show", "copyng"], "copying"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_names_what_is_wrong_and_writes_nothing(
    call: Call, mine: Path, tmp_path: Path, home: HomePaths, words: list[str], told: str
) -> None:
    (tmp_path / "broken.toml").write_text("question = why")
    (tmp_path / "empty-axis.toml").write_text('[[axes]]\nkey = "model.d_state"\nvalues = []\n')
    doubled = '[[axes]]\nname = "same"\n' + "".join(
        f'[[axes.variants]]\nlabel = "{label}"\nset = {{ "model.d_state" = 4 }}\n' for label in "ab"
    )
    (tmp_path / "doubled.toml").write_text(doubled)
    done = call(*words)
    assert done.code == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert not home.root.exists()


def test_a_dry_run_shows_which_runs_would_train_together(call: Call, mine: Path) -> None:
    """The seeds of a trial differ in no shape, the trials do."""
    done = call("submit", "mine.toml", "--dry-run", "--pack", "2")
    assert "Packing: 2 ensembles of 2 runs" in done.stderr
    done = call("submit", "mine.toml", "--dry-run", "--pack", "2", "--seeds", "3", "--json")
    assert json.loads(done.stdout)["packing"]["workers"] == [[[0, 0], [0, 1]], [[1, 0], [1, 1]], [[0, 2]], [[1, 2]]]
    assert "Packing" not in call("submit", "mine.toml", "--dry-run", "--pack", "off").stderr


def test_pack_is_part_of_what_is_stored(call: Call, mine: Path, home: HomePaths, started: list[SubmitOptions]) -> None:
    assert call("submit", "mine.toml", "--pack", "3").code == 0
    with Reader(home) as reader:
        assert {run.config["resources.pack"] for run in reader.runs()} == {3}


def test_a_pack_is_refused_where_runs_go_one_by_one(call: Call, mine: Path, home: HomePaths) -> None:
    done = call("submit", "mine.toml", "--pack", "2", "--executor", "inline")
    assert done.code == 2
    assert "--pack: got '2' with --executor inline" in done.stderr
    assert not home.root.exists()


@pytest.mark.parametrize("text", ["some", "0", "-1", "1.5"])
def test_a_pack_that_is_none_is_refused(call: Call, mine: Path, text: str) -> None:
    done = call("submit", "mine.toml", f"--pack={text}")
    assert done.code == 2
    assert f"--pack: got '{text}', expected auto, off, or a number" in done.stderr
