"""Ablations as files and as runs: TOML to AblationSpec, axes to trials, trials times seeds to runs. Pure: nothing is written here."""

from __future__ import annotations

import copy
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from workers.errors import SpecError
from workers.published import Published
from workers.specs import SEEDS_END, MetricSpec, RunSpec, Spec, spec_hash
from workers.validation import describe_errors

MAX_RUNS = 100_000
S = TypeVar("S", bound=Spec)


class Variant(Spec):
    """One value of an axis that changes several keys at once, under a label."""

    label: str = Field(min_length=1)
    set: dict[str, Any]


class Axis(Spec):
    """One thing that varies: a dotted key with values, or a name with labelled variants."""

    key: str | None = None
    name: str | None = None
    values: tuple[Any, ...] = ()
    variants: tuple[Variant, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        if bool(self.values) == bool(self.variants):
            raise ValueError("an axis needs either `values` or `variants`, and at least one of them")
        if self.values and self.key is None:
            raise ValueError("an axis with `values` needs a `key`, such as key = 'model.d_state'")
        if self.variants and self.name is None:
            raise ValueError("an axis with `variants` needs a `name`")
        labels = [label for label, _ in self.settings()]
        doubled = sorted({label for label in labels if labels.count(label) > 1})
        if doubled:
            raise ValueError(f"axis {self.title!r} names {', '.join(doubled)} more than once")
        return self

    @property
    def title(self) -> str:
        """The axis's name in tables: its key where it has one."""
        return self.name or self.key or ""

    def settings(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (label, {dotted key: value}) for each value of the axis."""
        if self.variants:
            return [(variant.label, dict(variant.set)) for variant in self.variants]
        return [(label_of(value), {self.key or "": value}) for value in self.values]


class Scale(Spec):
    """A smaller version of an ablation: what it changes, and `differences`, the same in words.

    `set` changes dotted keys of the baseline, `variants` those of the variants of any axis, by label; `axes` and `seeds`
    stand in the place of the ablation's own where they are given.
    """

    differences: tuple[str, ...] = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    seeds: tuple[int, ...] = ()


class AblationSpec(Spec):
    """A study: a baseline, the axes that vary, the seeds, and the metric that decides a question.

    `differences` lists what is not as in the paper that `paper` quotes. `scale` holds smaller versions by name.
    """

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9/._-]*$")
    question: str = ""
    design: Literal["grid", "one-at-a-time"] = "grid"
    seeds: tuple[int, ...] = (0,)
    metric: MetricSpec = MetricSpec()
    baseline: dict[str, Any] = Field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    differences: tuple[str, ...] = ()
    paper: Published | None = None
    scale: dict[str, Scale] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _seeds_differ(self) -> AblationSpec:
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, such as seeds = [0, 1, 2]")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        if beyond := [seed for seed in self.seeds if not 0 <= seed < SEEDS_END]:
            raise ValueError(f"seeds must be at least 0 and below {SEEDS_END}, got {beyond[0]}")
        titles = [axis.title for axis in self.axes]
        if len(set(titles)) != len(titles):
            raise ValueError(f"axes must have different names, got {titles}")
        return self


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of axis values: labels by axis title, and the run it asks for (with the first seed)."""

    index: int
    labels: dict[str, str]
    spec: RunSpec

    @property
    def label(self) -> str:
        """The trial's name: its labels in axis order, or `baseline` where nothing varies."""
        return " · ".join(self.labels.values()) or "baseline"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A trial with one of the ablation's seeds."""

    trial: Trial
    spec: RunSpec


def label_of(value: Any) -> str:
    """Return how a value is written on an axis: as TOML writes it, strings bare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def load_ablation(
    path: Path, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None, scale: str | None = None
) -> AblationSpec:
    """Read an ablation from a TOML file, at one of its scales, and apply `key=value` overrides to its baseline.

    Raises:
        SpecError: the file, the key, what was expected, and the nearest known key.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"{path}: no such file. Name a TOML file or a preset (`mambalab presets` lists them)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from error
    tree.setdefault("name", path.stem)
    return build_ablation(tree, source=str(path), overrides=overrides, seeds=seeds, scale=scale)


def build_ablation(
    tree: Mapping[str, Any],
    *,
    source: str,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    scale: str | None = None,
) -> AblationSpec:
    """Validate a parsed ablation, with overrides applied to the baseline. Raises SpecError as `load_ablation` does."""
    merged: dict[str, Any] = copy.deepcopy(dict(tree))
    if scale is not None:
        merged = at_scale(validate(AblationSpec, merged, source), scale, source)
    baseline = merged.setdefault("baseline", {})
    if not isinstance(baseline, dict):
        raise SpecError(f"{source}: key `baseline`: expected a table, got {type(baseline).__name__}")
    written = copy.deepcopy(baseline)
    for text in overrides:
        key, value = parse_override(text)
        set_dotted(baseline, key, value, source=f"--set {text}")
    if seeds is not None:
        merged["seeds"] = list(seeds)
    spec = validate(AblationSpec, merged, source)
    if overrides and _is_valid(written):
        validate(RunSpec, spec.baseline, "--set")  # the file is good as it is written, so it is not the one to name
    validate(RunSpec, spec.baseline, source, prefix="baseline.")
    return spec


def _is_valid(tree: Mapping[str, Any]) -> bool:
    try:
        validate(RunSpec, tree, "")
    except SpecError:
        return False
    return True


def at_scale(spec: AblationSpec, name: str, source: str) -> dict[str, Any]:
    """Return an ablation's tree at one of its scales, named `<ablation>.<scale>`. Raises SpecError where it has none such."""
    if name not in spec.scale:
        known = ", ".join(sorted(spec.scale))
        hint = f"Its scales: {known}." if known else "It has no other scale; use --set to change single keys."
        raise SpecError(f"{source}: no scale {name!r}. {hint}")
    chosen = spec.scale[name]
    tree = spec.model_dump(mode="json", exclude={"scale"}, exclude_unset=True)
    tree |= {"name": f"{spec.name}.{name}", "differences": [*spec.differences, *chosen.differences]}
    where = f"{source}: scale {name!r}"
    for key, value in chosen.set.items():
        set_dotted(tree.setdefault("baseline", {}), key, value, source=where)
    if chosen.axes:
        tree["axes"] = [axis.model_dump(mode="json", exclude_unset=True) for axis in chosen.axes]
    if chosen.seeds:
        tree["seeds"] = list(chosen.seeds)
    variants = {variant["label"]: variant for axis in tree.get("axes", ()) for variant in axis.get("variants", ())}
    for label, changes in chosen.variants.items():
        if label not in variants:
            raise SpecError(f"{where} changes the variant {label!r}, and no axis has one of that label")
        variants[label]["set"] |= changes
    return tree


def build_run(overrides: Sequence[str], *, base: Mapping[str, Any] | None = None, source: str = "--set") -> RunSpec:
    """Return the run that `key=value` overrides of the defaults (or of `base`) describe. Raises SpecError."""
    tree: dict[str, Any] = copy.deepcopy(dict(base or {}))
    for text in overrides:
        key, value = parse_override(text)
        set_dotted(tree, key, value, source=f"--set {text}")
    return validate(RunSpec, tree, source)


def expand(spec: AblationSpec, source: str = "ablation") -> list[Trial]:
    """Return the trials of an ablation in order: a grid of all axes, or the baseline and each single change.

    Raises:
        SpecError: an invalid value (naming axis and key), a trial that appears twice, or more than MAX_RUNS runs.
    """
    combinations = list(itertools.islice(_combinations(spec), MAX_RUNS // len(spec.seeds) + 1))
    if len(combinations) * len(spec.seeds) > MAX_RUNS:
        raise SpecError(
            f"{source}: the axes ask for more than {MAX_RUNS:,} runs. Drop an axis or use design = 'one-at-a-time'."
        )
    trials: list[Trial] = []
    seen: dict[str, str] = {}
    for index, combination in enumerate(combinations):
        tree = copy.deepcopy(spec.baseline)
        for title, (label, settings) in combination.items():
            for key, value in settings.items():
                set_dotted(tree, key, copy.deepcopy(value), source=f"{source}: axis {title!r}, value {label!r}")
        labels = {title: label for title, (label, _) in combination.items()}
        where = ", ".join(f"{title} = {label}" for title, label in labels.items()) or "baseline"
        run = validate(RunSpec, tree, f"{source}: trial ({where})").model_copy(update={"seed": spec.seeds[0]})
        trial = Trial(index, labels, run)
        digest = spec_hash(run)
        if digest in seen:
            raise SpecError(
                f"{source}: trials ({seen[digest]}) and ({where}) are the same run. Remove one of the values."
            )
        seen[digest] = where
        trials.append(trial)
    return trials


def plan_runs(spec: AblationSpec, source: str = "ablation") -> list[PlannedRun]:
    """Return every run of an ablation, trial by trial within each seed, so that early results compare all trials."""
    trials = expand(spec, source)
    return [PlannedRun(trial, trial.spec.model_copy(update={"seed": seed})) for seed in spec.seeds for trial in trials]


def _combinations(spec: AblationSpec) -> Iterator[dict[str, tuple[str, dict[str, Any]]]]:
    titled = [(axis.title, axis.settings()) for axis in spec.axes]
    if spec.design == "grid":
        for choice in itertools.product(*(settings for _, settings in titled)):
            yield {title: value for (title, _), value in zip(titled, choice, strict=True)}
        return
    yield {title: ("baseline", {}) for title, _ in titled}
    for changed, settings in titled:
        for value in settings:
            yield {title: value if title == changed else ("baseline", {}) for title, _ in titled}


def parse_override(text: str) -> tuple[str, Any]:
    """Split `model.d_state=8` into its key and its value, which is TOML where that parses and a bare string otherwise."""
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SpecError(f"--set {text!r}: expected KEY=VALUE, such as --set model.d_state=8")
    try:
        return key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key, raw.strip()


def set_dotted(tree: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Set `a.b.c` in nested tables, making tables on the way. Raises SpecError where a value stands in the way."""
    *parents, leaf = key.split(".")
    node = tree
    for depth, parent in enumerate(parents):
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise SpecError(
                f"{source}: `{'.'.join(parents[: depth + 1])}` is a value, not a table, so `{key}` cannot be set"
            )
        node = child
    node[leaf] = value


def validate(model: type[S], tree: Mapping[str, Any], source: str, prefix: str = "") -> S:
    """Validate parsed data against a spec; a failure becomes a SpecError that names the file and the nearest key."""
    try:
        return model.model_validate_json(json.dumps(tree))
    except (TypeError, RecursionError) as error:
        raise SpecError(f"{source}: a value is of a type that a spec cannot hold: {error}") from None
    except ValidationError as error:
        raise SpecError(f"{source}: " + describe_errors(model, error, prefix)) from None
