"""Colours and glyphs: a dark and a light theme whose statuses are told apart by colour-blind eyes, and without colour.

The hues are those of Okabe and Ito (2008), lightened or darkened for their background. Every status also has a glyph of
its own, so NO_COLOR and monochrome terminals lose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rich.style import Style
from textual.theme import Theme

STATUS_GLYPHS = {"queued": "○", "running": "▶", "completed": "✔", "failed": "✖", "cancelled": "◼", "lost": "?"}


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours that our own widgets paint with."""

    text: str
    muted: str
    faint: str
    background: str
    surface: str
    panel: str
    cursor: str
    accent: str
    good: str
    bad: str
    warning: str
    best: str
    statuses: dict[str, str]
    series: tuple[str, ...]

    def __hash__(self) -> int:
        return hash((self.text, self.background))


DARK = Palette(
    text="#d6dae2",
    muted="#8b93a3",
    faint="#4b5260",
    background="#12151b",
    surface="#181c24",
    panel="#20252f",
    cursor="#2b3e57",
    accent="#56b4e9",
    good="#2fc49a",
    bad="#f0803c",
    warning="#f0e442",
    best="#f0e442",
    statuses={
        "queued": "#8b93a3",
        "running": "#56b4e9",
        "completed": "#2fc49a",
        "failed": "#f0803c",
        "cancelled": "#d68fbb",
        "lost": "#f0e442",
    },
    series=("#56b4e9", "#e69f00", "#2fc49a", "#d68fbb", "#f0e442", "#f0803c", "#8c9eff", "#c5c9d3"),
)
LIGHT = Palette(
    text="#1f2430",
    muted="#5d6675",
    faint="#b3bac6",
    background="#fafbfc",
    surface="#f0f2f5",
    panel="#e4e8ee",
    cursor="#cfe0f4",
    accent="#0067a5",
    good="#00795a",
    bad="#b84a00",
    warning="#8a6d00",
    best="#8a6d00",
    statuses={
        "queued": "#5d6675",
        "running": "#0067a5",
        "completed": "#00795a",
        "failed": "#b84a00",
        "cancelled": "#a0447f",
        "lost": "#8a6d00",
    },
    series=("#0067a5", "#b87d00", "#00795a", "#a0447f", "#8a6d00", "#b84a00", "#4b56c8", "#4b5260"),
)
PALETTES = {"mambalab-dark": DARK, "mambalab-light": LIGHT}


def _theme(name: str, palette: Palette) -> Theme:
    return Theme(
        name=name,
        primary=palette.accent,
        secondary=palette.series[6],
        accent=palette.accent,
        warning=palette.warning,
        error=palette.bad,
        success=palette.good,
        foreground=palette.text,
        background=palette.background,
        surface=palette.surface,
        panel=palette.panel,
        dark=palette is DARK,
        variables={
            "muted": palette.muted,
            "faint": palette.faint,
            "cursor": palette.cursor,
            "scrollbar": palette.faint,
            "scrollbar-hover": palette.muted,
            "scrollbar-active": palette.accent,
            "scrollbar-background": palette.surface,
            "scrollbar-background-hover": palette.surface,
            "scrollbar-background-active": palette.surface,
            "scrollbar-corner-color": palette.surface,
            "block-cursor-background": palette.cursor,
            "block-cursor-foreground": palette.text,
            "input-cursor-background": palette.text,
            "input-selection-background": palette.cursor,
        },
    )


THEMES = tuple(_theme(name, palette) for name, palette in PALETTES.items())


def palette_of(theme: str) -> Palette:
    """Return the palette of a theme; the dark one for a theme that is not ours."""
    return PALETTES.get(theme, DARK)


@lru_cache(maxsize=2048)
def style(color: str, background: str = "", *, bold: bool = False, reverse: bool = False) -> Style:
    """Return a Rich style, made once: widgets ask for the same few thousands of times a second."""
    return Style(color=color, bgcolor=background or None, bold=bold or None, reverse=reverse or None)


def named_color(palette: Palette, name: str) -> str:
    """Return a colour by its name: a status, `series:3`, a field of the palette, or nothing for the text's."""
    if name.startswith("series:"):
        return palette.series[int(name[7:]) % len(palette.series)]
    return palette.statuses.get(name) or str(getattr(palette, name or "text"))
