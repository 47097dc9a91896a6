"""Prints an example so that a person can check it by eye."""

from __future__ import annotations

from collections.abc import Mapping

from workers.tasks.base import IGNORE, Batch

_COLUMNS = 32  # positions a row
_ROWS_SHOWN = 24


def lay_out(batch: Batch, signs: Mapping[int, str]) -> str:
    """Return the first sequence in rows: the position, the inputs, and below them the targets (`-`: none).

    A row of noise that is like the one before it is left out, and so is what exceeds 24 rows but the last one.
    """
    inputs, targets = batch.inputs[0].tolist(), batch.targets[0].tolist()
    width = max(len(signs.get(token, str(token))) for token in inputs + [t for t in targets if t != IGNORE])
    blocks: list[str] = []
    previous: tuple[list[int], list[int]] | None = None
    skipped = 0
    starts = range(0, len(inputs), _COLUMNS)
    for start in starts:
        row = (inputs[start : start + _COLUMNS], targets[start : start + _COLUMNS])
        if start != starts[-1] and (row == previous or len(blocks) >= _ROWS_SHOWN):
            skipped += len(row[0])
            continue
        if skipped:
            blocks.append(f"... {skipped} positions ...")
            skipped = 0
        previous = row
        blocks.append(_block(start, *row, signs, width))
    return "\n".join(blocks)


def _block(start: int, inputs: list[int], targets: list[int], signs: Mapping[int, str], width: int) -> str:
    def line(label: str, tokens: list[int]) -> str:
        shown = ("-" if token == IGNORE else signs.get(token, str(token)) for token in tokens)
        return f"{label:<15}" + " ".join(f"{sign:>{width}}" for sign in shown)

    rows = [line(f"{start:>6} inputs", inputs)]
    if any(target != IGNORE for target in targets):
        rows.append(line("       targets", targets))
    return "\n".join(rows)
