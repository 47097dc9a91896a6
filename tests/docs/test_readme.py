"""The README, the glossary and the links say what the program does."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from app.main import run
from app.verbs import VERBS
from storage.status import AttemptStatus, RequestKind, RequestStatus, RunStatus
from workers.ablation import build_ablation, plan_runs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for room in ("docs", "kernels", "workers") for page in (ROOT / room).rglob("*.md"))]
)


def toml_example() -> str:
    """Return the README's ablation."""
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    return str(block)


def commands() -> list[list[str]]:
    """Return the words of every `mambalab` command line that the README shows, in blocks and in the text."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [" ".join(quoted.split()) for quoted in re.findall(r"`(mambalab [^`]+)`", README)]
    found = (shlex.split(line, comments=True) for line in lines if line.startswith("mambalab "))
    return [words[1:] for words in found]


def call(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return a command's exit code and what it wrote to stdout."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0), capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    quoted = re.findall(r"`([^`\n]+)`", README)
    assert any(verb in words.split() for words in quoted), f"README.md does not mention `{verb}`"


def test_the_readme_shows_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_what_the_readme_types_exists(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    verb = words[0]
    assert verb in VERBS
    nested = [words[1]] if verb in ("task", "bench") else []
    code, text = call([verb, *nested, "--help"], capsys)
    assert code == 0
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"`mambalab {verb}` has no {option}"


def test_the_readmes_ablation_is_valid_and_small() -> None:
    spec = build_ablation({**tomllib.loads(toml_example()), "name": "mine"}, source="README.md")
    assert len(plan_runs(spec)) == 12


def test_the_readmes_ablation_can_be_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAMBALAB_HOME", raising=False)
    (tmp_path / "mine.toml").write_text(toml_example())
    code, text = call(["submit", "mine.toml", "--dry-run"], capsys)
    assert code == 0
    assert len(text.splitlines()) == 1 + 4
    assert not (tmp_path / ".mambalab").exists()


def test_the_readmes_overrides_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    changed = [words for words in commands() if "--set" in words and words[0] == "submit" and "mine.toml" not in words]
    assert changed
    for words in changed:
        assert call([*words, "--dry-run"], capsys)[0] == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if re.match(r"[a-z]+:|#", target):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target} does not exist"


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("status of a run", list(RunStatus)),
        ("status of an attempt", list(AttemptStatus)),
        ("request", [*RequestKind, *RequestStatus]),
    ],
)
def test_the_glossary_has_the_stores_words(term: str, words: list[str]) -> None:
    (meaning,) = re.findall(rf"^\| {term} \| (.*) \|$", GLOSSARY, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", meaning)) == sorted(words)


def test_each_word_has_one_meaning() -> None:
    terms = re.findall(r"^\| ([^|]+) \| ", GLOSSARY, flags=re.MULTILINE)
    assert len(terms) == len(set(terms))
