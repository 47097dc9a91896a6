"""The command palette: the actions of the screen in front, from the table of keys."""

from __future__ import annotations

from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from tui.keys import Action, actions, key_label
from tui.screens.base import LabScreen


class ActionsProvider(Provider):
    """Finds actions by their label and help."""

    def _actions(self) -> list[tuple[LabScreen, Action, str]]:
        screen = self.screen
        if not isinstance(screen, LabScreen):
            return []
        situation = screen.situation()
        listed = [action for action in actions(screen.SCOPE) if action.group != "Move" and action.name != "palette"]
        return [(screen, action, action.enabled(situation)) for action in listed]

    async def discover(self) -> Hits:
        """Offer all of them."""
        for screen, action, reason in self._actions():
            yield DiscoveryHit(_title(action), partial(screen.action_perform, action.name), help=reason or action.help)

    async def search(self, query: str) -> Hits:
        """Offer those that fit what is typed."""
        matcher = self.matcher(query)
        for screen, action, reason in self._actions():
            title = _title(action)
            score = max(matcher.match(title), matcher.match(action.help) * 0.9)
            if score > 0:
                perform = partial(screen.action_perform, action.name)
                yield Hit(score, matcher.highlight(title), perform, text=title, help=reason or action.help)


def _title(action: Action) -> str:
    return f"{action.label} ({key_label(action.keys[0])})"
