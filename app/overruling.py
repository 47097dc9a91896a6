"""Changes that an ablation's axes overrule: a `--set` that no trial would show is a mistake, and one that few do is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.errors import bad_input

if TYPE_CHECKING:
    from workers.ablation import AblationSpec, Axis


def check_overruled(spec: AblationSpec, overrides: Sequence[str]) -> None:
    """End with bad input where a change reaches no trial; tell where it does not reach some."""
    from app.console import say
    from workers.ablation import parse_override

    for text in overrides:
        key, _ = parse_override(text)
        for axis in spec.axes:
            labels = [label for label, settings in axis.settings() if _sets(settings, key)]
            if not labels:
                continue
            if len(labels) == len(axis.settings()) and spec.design == "grid":
                bad_input(
                    f"--set {text}: no trial would show it, because the axis {axis.title!r} sets {key} itself "
                    f"({_values(axis, key)}). Change the axis in a file of your own; `mambalab presets NAME` prints a preset's."
                )
            say(f"--set {text}: the axis {axis.title!r} sets {key} itself where it is {', '.join(labels)}")


def _sets(settings: dict[str, object], key: str) -> bool:
    """Tell whether settings replace a key: by its own name, or by that of a table it stands in."""
    return any(key == name or key.startswith(f"{name}.") for name in settings)


def _values(axis: Axis, key: str) -> str:
    found = []
    for label, settings in axis.settings():
        value = settings.get(key)
        found.append(label if value is None or str(value) == label else f"{label}: {value}")
    return ", ".join(found)
