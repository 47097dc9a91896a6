"""What a user types becomes an id, or an error that says what was meant."""

from __future__ import annotations

import pytest

from storage.errors import AmbiguousPrefix, NotFound
from storage.home import HomePaths
from storage.queries import Reader
from storage.repository import Repository
from tests.unit.storage.lab import PROVENANCE, execute, new_ablation, new_run


@pytest.fixture
def ids(repository: Repository, paths: HomePaths) -> None:
    """Make three runs and two ablations with ids that tests can name."""
    for name, study, runs in (("demo", "abc1", ("aaa1", "aaa2")), ("demo", "abd2", ("b%_c",))):
        done = repository.submit(
            ablation=new_ablation(name), runs=[new_run(seed) for seed, _ in enumerate(runs)], provenance=PROVENANCE
        )
        execute(paths, "UPDATE run SET ablation_id = NULL")
        execute(paths, "UPDATE ablation SET id = ? WHERE id = ?", study, done.ablation_id)
        for old, new in zip(done.run_ids, runs, strict=True):
            execute(paths, "UPDATE run SET id = ? WHERE id = ?", new, old)


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("aaa1", ("run", "aaa1")),
        ("b", ("run", "b%_c")),
        ("abd", ("ablation", "abd2")),
        ("demo", ("ablation", "abd2")),
    ],
    ids=["whole id", "prefix", "prefix of an ablation", "the newest of a name"],
)
def test_one_match(reader: Reader, ref: str, expected: tuple[str, str]) -> None:
    assert reader.resolve(ref) == expected
    resolve = reader.resolve_run if expected[0] == "run" else reader.resolve_ablation
    assert resolve(ref) == expected[1]


@pytest.mark.usefixtures("ids")
def test_a_whole_id_wins_over_longer_ones(reader: Reader, paths: HomePaths) -> None:
    execute(paths, "UPDATE run SET id = 'aaa12' WHERE id = 'aaa2'")
    assert reader.resolve("aaa1") == ("run", "aaa1")


@pytest.mark.usefixtures("ids")
def test_several_matches_are_listed(reader: Reader) -> None:
    with pytest.raises(AmbiguousPrefix, match="'aaa' is the start of 2 ids: aaa1, aaa2") as caught:
        reader.resolve_run("aaa")
    assert caught.value.candidates == ("aaa1", "aaa2")
    with pytest.raises(AmbiguousPrefix, match="4 ids: abc1, abd2, aaa1, aaa2"):
        reader.resolve("a")
    with pytest.raises(AmbiguousPrefix):
        reader.resolve_ablation("ab")


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("ref", ["", "%", "_", "a_", "AAA1", "zzz", "aaa1 ", "é", "'"])
def test_no_match(reader: Reader, ref: str) -> None:
    for resolve in (reader.resolve, reader.resolve_run, reader.resolve_ablation):
        with pytest.raises(NotFound, match="mambalab ls"):
            resolve(ref)


@pytest.mark.usefixtures("ids")
def test_the_nearest_is_named(reader: Reader) -> None:
    with pytest.raises(NotFound, match="no run or ablation 'dmo'. Did you mean 'demo'?"):
        reader.resolve("dmo")
    with pytest.raises(NotFound, match="no run 'aab1'. Did you mean 'aaa1'?"):
        reader.resolve_run("aab1")


def test_an_unknown_id_is_named(reader: Reader) -> None:
    for read in (reader.run, reader.run_spec, reader.run_facts, reader.ablation):
        with pytest.raises(NotFound, match="has the id 'gone'"):
            read("gone")
    assert reader.attempts("gone") == []
    assert reader.provenance("gone") is None
