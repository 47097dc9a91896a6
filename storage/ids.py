"""Names of ablations and runs: short, random, and safe as a folder's name."""

from __future__ import annotations

import re
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no i, l, o or u to misread
ID_LENGTH = 10  # 50 bits: among 10,000 runs a clash has a chance of 1 in 20 million, and the column is unique besides
SAFE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def new_id() -> str:
    """Return a random id. It carries no time, so that the first few characters already tell runs apart."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def check_id(text: str) -> str:
    """Return the id unchanged. Raises ValueError where it could name a path outside its folder."""
    if not SAFE_ID.fullmatch(text):
        raise ValueError(
            f"id {text!r} is not one: expected up to 64 of a-z, 0-9, _ and -, starting with a letter or digit. "
            "`mambalab ls` lists the ids."
        )
    return text
