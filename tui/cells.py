"""Text in cells of a terminal, of which some characters take two."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from storage.encoding import visible


def cells(text: str) -> int:
    """Return how many cells of the terminal a text takes: most characters one, some two."""
    return len(text) if text.isascii() else cell_len(text)


def fit(text: str, width: int, align: str = "left") -> str:
    """Return the text in exactly `width` cells, cut with an ellipsis where it is too long, and nothing a terminal obeys."""
    text = visible(text)
    if not text.isascii() and (taken := cell_len(text)) != len(text):
        if taken > width:
            return set_cell_size(text, max(0, width - 1)) + "…" if width > 0 else ""
        return " " * (width - taken) + text if align == "right" else text + " " * (width - taken)
    if len(text) > width:
        return text[: max(0, width - 1)] + "…" if width > 0 else ""
    return text.rjust(width) if align == "right" else text.ljust(width)


def fitting(text: str, width: int) -> int:
    """Return how many of the text's first characters fit into `width` cells."""
    if text.isascii():
        return min(len(text), max(0, width))
    for place, letter in enumerate(text):
        width -= cell_len(letter)
        if width < 0:
            return place
    return len(text)


def without_folders(text: str, width: int) -> str:
    """Return a name such as `paper/table-1` without its folders where the whole of it is wider than `width` cells."""
    return text if cells(text) <= width else text.rsplit("/", 1)[-1]
