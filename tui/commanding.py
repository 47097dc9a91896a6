"""What one writes after `:`: an action's name, or as much of it as is its alone, and what it takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from tui.keys import Action

Choices = Callable[[Action], Sequence[str]]
LEFT_OUT = ("command", "palette")


def commands(listed: Sequence[Action]) -> list[Action]:
    """Return those of a screen's actions that can be called: not those that only move, or that ask for an action."""
    return [action for action in listed if (action.group != "Move" or action.argument) and action.name not in LEFT_OUT]


def parse(text: str, listed: Sequence[Action]) -> tuple[Action, str]:
    """Return the action that a text calls and what stands behind its name.

    Raises:
        ValueError: no action or several have a name that begins so, or it takes nothing.
    """
    word, _, argument = text.strip().partition(" ")
    found = matching(word, listed)
    if not found:
        close = get_close_matches(word, [action.word for action in commands(listed)], n=1)
        raise ValueError(f"nothing here is called {word!r}" + (f"; the nearest is {close[0]}" if close else ""))
    if len(found) > 1:
        raise ValueError(f"{word!r} may mean {', '.join(action.word for action in found)}")
    if argument.strip() and not found[0].argument:
        raise ValueError(f"{found[0].word} takes nothing, got {argument.strip()!r}")
    return found[0], argument.strip()


def matching(word: str, listed: Sequence[Action]) -> list[Action]:
    """Return the actions whose name begins with a word; the one alone that is called so."""
    known = commands(listed)
    exact = [action for action in known if action.word == word]
    return exact[:1] or [action for action in known if word and action.word.startswith(word)]


def complete(text: str, listed: Sequence[Action], choices: Choices) -> str | None:
    """Return a text that goes on from what is typed: the name of an action, or the first thing it may take."""
    word, space, argument = text.partition(" ")
    if not space:
        found = matching(word, listed)
        return next((action.word + (" " if action.argument else "") for action in found if action.word != word), None)
    found = matching(word, listed)
    if len(found) != 1 or not argument:
        return None
    typed = argument.casefold()
    return next((f"{word} {choice}" for choice in choices(found[0])
                 if choice.casefold().startswith(typed) and choice != argument), None)  # fmt: skip
