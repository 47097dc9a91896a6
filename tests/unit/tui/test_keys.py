"""One table of keys: dispatch, footer, help and palette say the same."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable

import pytest
from textual.keys import Keys, _character_to_key

from tui.keys import ACTIONS, KEY_NAMES, Situation, actions, bindings, key_label
from tui.screens.base import LabScreen
from tui.screens.help import help_lines

SCREENS = {
    "runs": ("tui.screens.runs", "RunsScreen"),
    "run": ("tui.screens.run", "RunScreen"),
    "ablation": ("tui.screens.ablation", "AblationScreen"),
    "ablations": ("tui.screens.ablations", "AblationsScreen"),
    "compare": ("tui.screens.compare", "CompareScreen"),
    "sql": ("tui.screens.sql", "SqlScreen"),
    "lens": ("tui.screens.lens", "LensScreen"),
    "cluster": ("tui.screens.cluster", "ClusterScreen"),
}
SCOPES = sorted({scope for action in ACTIONS for scope in action.where})
NOTHING = Situation()


def screen_of(scope: str) -> type[LabScreen]:
    """Return the class of a scope's screen."""
    module, name = SCREENS[scope]
    found: type[LabScreen] = getattr(importlib.import_module(module), name)
    return found


def test_every_scope_has_a_screen() -> None:
    assert set(SCOPES) == {*SCREENS, "help"}


@pytest.mark.parametrize("scope", SCOPES)
def test_no_key_means_two_things(scope: str) -> None:
    counted = Counter(key for action in actions(scope) for key in action.keys)
    assert [key for key, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("scope", sorted(SCREENS))
def test_every_action_of_a_screen_can_be_carried_out(scope: str) -> None:
    missing = [
        action.name for action in actions(scope) if not callable(getattr(screen_of(scope), f"do_{action.name}", None))
    ]
    assert missing == []


@pytest.mark.parametrize("scope", sorted(SCREENS))
def test_textual_dispatches_exactly_the_table(scope: str) -> None:
    expected = {(key, f"perform('{action.name}')") for action in actions(scope) for key in action.keys}
    own = {(binding.key, binding.action) for binding in screen_of(scope).BINDINGS if not isinstance(binding, tuple)}
    assert own == expected
    assert {(binding.key, binding.action) for binding in bindings(scope)} == expected
    assert scope == screen_of(scope).SCOPE


@pytest.mark.parametrize("scope", SCOPES)
def test_the_help_lists_every_action_with_its_keys(scope: str) -> None:
    text = "\n".join("".join(piece for piece, _ in line) for line in help_lines(scope, NOTHING))
    for action in actions(scope):
        assert action.help in text
        assert " ".join(key_label(key) for key in action.keys) in text


@pytest.mark.parametrize("scope", sorted(SCREENS))
def test_the_footer_always_offers_help_and_leaving(scope: str) -> None:
    shown = {action.name for action in actions(scope) if action.footer}
    assert {"help", "quit"} <= shown


def test_names_and_keys_are_real() -> None:
    known = {key.value for key in Keys}
    for action in ACTIONS:
        assert action.help
        assert action.label
        assert set(action.where) <= set(SCOPES)
        for key in action.keys:
            plain = key.split("+")[-1]
            assert plain in known or len(plain) == 1 or plain in KEY_NAMES, key
    signs = {name: sign for name, sign in KEY_NAMES.items() if len(sign) == 1 and sign.isascii()}
    assert {name: _character_to_key(sign) for name, sign in signs.items()} == {name: name for name in signs}
    assert set(KEY_NAMES) <= {key for action in ACTIONS for key in action.keys}


def condition(name: str) -> Callable[[Situation], str]:
    """Return the condition of an action."""
    return next(action.enabled for action in ACTIONS if action.name == name)


@pytest.mark.parametrize(
    ("name", "situation", "reason"),
    [
        ("cancel", Situation(), "no run is selected"),
        (
            "cancel",
            Situation(targets=("completed",)),
            "only queued and running runs can be cancelled; this is completed",
        ),
        ("cancel", Situation(targets=("completed", "running")), ""),
        ("cancel", Situation(targets=("running",), writable=False, why_not_writable="locked"), "locked"),
        ("retry", Situation(targets=("running",)), "only failed and cancelled runs can be retried; this is running"),
        ("retry", Situation(targets=("cancelled",)), ""),
        ("priority", Situation(targets=("queued",)), ""),
        ("priority", Situation(targets=("failed",)), "only queued runs have an order to change; this is failed"),
        ("compare", Situation(comparable=1), "mark two or more with space first"),
        ("compare", Situation(comparable=2), ""),
        ("unmark", Situation(), "nothing is marked"),
        ("ablation", Situation(), "this run belongs to no ablation"),
        ("swap", Situation(), "an ablation without axes has one cell"),
        ("metric", Situation(metrics=1), "there is no other metric yet"),
        ("smooth", Situation(tab="config"), "this works on the tab curves and system"),
        ("follow", Situation(tab="log"), ""),
    ],
)
def test_a_disabled_action_says_why(name: str, situation: Situation, reason: str) -> None:
    assert condition(name)(situation) == reason
