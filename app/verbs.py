"""The verbs of the command line. Each is a module of app.commands that is imported when it is asked for, not before."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from app.coercion import PlainCommand, lighten


class Verb(NamedTuple):
    """Where a verb is found: the panel of the help it belongs to, its module, and the function or Typer in it."""

    panel: str
    module: str
    attribute: str


VERBS: dict[str, Verb] = {
    "submit": Verb("Run", "submit", "submit"),
    "run": Verb("Run", "run", "run"),
    "add-seeds": Verb("Run", "add_seeds", "add_seeds"),
    "resume": Verb("Run", "resume", "resume"),
    "cancel": Verb("Run", "cancel", "cancel"),
    "retry": Verb("Run", "retry", "retry"),
    "priority": Verb("Run", "priority", "priority"),
    "down": Verb("Run", "down", "down"),
    "ui": Verb("Look", "ui", "ui"),
    "ls": Verb("Look", "ls", "ls"),
    "show": Verb("Look", "show", "show"),
    "logs": Verb("Look", "logs", "logs"),
    "cluster": Verb("Look", "cluster", "cluster"),
    "table": Verb("Look", "table", "table"),
    "query": Verb("Look", "query", "query"),
    "eval": Verb("Look", "eval", "evaluate"),
    "tag": Verb("Keep", "tag", "tag"),
    "untag": Verb("Keep", "tag", "untag"),
    "note": Verb("Keep", "note", "note"),
    "archive": Verb("Keep", "archive", "archive"),
    "presets": Verb("Learn", "presets", "presets"),
    "task": Verb("Learn", "task", "app"),
    "doctor": Verb("Learn", "doctor", "doctor"),
    "bench": Verb("Learn", "bench", "app"),
    "profile": Verb("Learn", "profile", "profile"),
}


class LazyCommands(MutableMapping[str, Any]):
    """The commands by name, in the order of the help; looking one up imports its module."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, VERBS[name])
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class LazyGroup(TyperGroup):
    """A group whose verbs are imported one by one: `mambalab ls` pays for `ls` alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands()

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options that stand before the verb."""
        found = super().get_params(ctx)
        for parameter in found:
            lighten(parameter)
        return found

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Return the names without building the commands."""
        return list(self.commands)


def _build(name: str, verb: Verb) -> Any:
    found = getattr(import_module(f"app.commands.{verb.module}"), verb.attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
        command.name = name
    else:
        holder = typer.Typer(add_completion=False, rich_markup_mode="rich")
        holder.command(name, cls=PlainCommand)(found)
        command = typer.main.get_command(holder)
    command.rich_help_panel = verb.panel  # type: ignore[attr-defined]  # both kinds of command have it
    return command
