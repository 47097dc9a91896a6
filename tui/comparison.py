"""What differs between runs: configurations, and what makes a comparison unfair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from storage.rows import RunRow
from tui.cells import fit
from tui.charts import TOKENS
from tui.format import count_label, plain
from tui.widgets.text_view import TextLine

VALUE = 16


def grouped(runs: Sequence[RunRow]) -> dict[str, list[RunRow]]:
    """Return runs by what they compute, named after their trial: one trial of an ablation is one group.

    Other runs are one group where their configurations are the same but for the seed. (Within a trial they are not asked:
    seeds that a newer version has added name keys that the first ones lack.)
    """
    groups: dict[tuple[object, ...], list[RunRow]] = {}
    for run in runs:
        if run.ablation_id is not None:
            groups.setdefault((run.ablation_id, run.trial_index), []).append(run)
            continue
        config = {key: value for key, value in run.config.items() if key != "seed"}
        groups.setdefault((None, run.trial_label, str(sorted(config.items()))), []).append(run)
    named: dict[str, list[RunRow]] = {}
    several = len({run.ablation_id for run in runs}) > 1
    for members in groups.values():
        first = members[0]
        name = first.trial_label or first.name
        if several and first.trial_label:
            name = f"{first.name} {name}"
        while name in named:
            name += "'"
        named[name] = members
    return named


def grouped_by(runs: Sequence[RunRow], name: str, read: Callable[[RunRow], object]) -> dict[str, list[RunRow]]:
    """Return runs by what a field of theirs is, numbers in order: `d_state = 8`."""
    groups: dict[object, list[RunRow]] = {}
    for run in runs:
        value = read(run)
        groups.setdefault(tuple(value) if isinstance(value, list) else value, []).append(run)
    keys = sorted(
        groups, key=lambda key: (not isinstance(key, int | float), key if isinstance(key, int | float) else 0)
    )
    return {f"{name} = {plain(key)}": groups[key] for key in keys}


def _values(runs: Sequence[RunRow], key: str) -> set[str]:
    """Return what a key is in those runs of a group that have it."""
    return {plain(run.config[key]) for run in runs if key in run.config} or {"–"}


def differing(groups: Mapping[str, Sequence[RunRow]]) -> dict[str, list[str]]:
    """Return the keys whose values are not the same in all runs, with each group's value; seeds are left out."""
    keys = dict.fromkeys(key for runs in groups.values() for run in runs for key in run.config if key != "seed")
    found = {}
    for key in keys:
        values = [_values(runs, key) for runs in groups.values()]
        if len(set().union(*values)) > 1:
            found[key] = [next(iter(known)) if len(known) == 1 else f"({len(known)} values)" for known in values]
    return found


def warnings(groups: Mapping[str, Sequence[RunRow]], parameters: Mapping[str, float]) -> list[str]:
    """Return what makes the comparison unfair: steps, tokens or sizes that differ, runs that are not done."""
    found = []
    runs = [run for members in groups.values() for run in members]
    unfinished = sum(run.status != "completed" for run in runs)
    if unfinished:
        found.append(f"{unfinished} of {len(runs)} runs have not completed")
    for name, values in (
        ("steps", [_range([float(run.step) for run in members]) for members in groups.values()]),
        ("tokens seen", [_range([run.metrics.get(TOKENS, 0.0) for run in members]) for members in groups.values()]),
        ("parameters", [_range([parameters.get(run.id, 0.0) for run in members]) for members in groups.values()]),
    ):
        low = min((value[0] for value in values if value[1] > 0), default=0.0)
        high = max((value[1] for value in values), default=0.0)
        if low > 0 and high > low * 1.01:
            found.append(f"{name} differ: {count_label(low)} to {count_label(high)}")
    counts = {len(members) for members in groups.values()}
    if len(counts) > 1:
        found.append(f"numbers of seeds differ: {min(counts)} to {max(counts)}")
    return found


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 0.0)


def difference_lines(groups: Mapping[str, Sequence[RunRow]]) -> list[TextLine]:
    """Return a table of what differs, a column a group."""
    found = differing(groups)
    if not found:
        return [[("The configurations are the same but for the seed.", "muted")]]
    head: list[tuple[str, str]] = [(f"{'':<22}", "")]
    head += [(f" {fit(name, VALUE)}", f"series:{index}") for index, name in enumerate(groups)]
    lines: list[TextLine] = [head]
    for key, values in found.items():
        lines.append([(f"{fit(key, 22)}", "muted"), *((f" {fit(value, VALUE)}", "") for value in values)])
    return lines
