"""Lists in messages: the first few, and how many there are besides."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 3
"""Of a list that a line of text names."""


def listed(names: Sequence[str], most: int = MOST) -> str:
    """'a, b, c and 2 more'."""
    return _first(names, most, ", ", " and")


def listed_lines(lines: Sequence[str], most: int = MOST) -> str:
    """'one is so; another is so; and 2 more': of whole sentences, which may hold commas."""
    return _first(lines, most, "; ", "; and")


def _first(items: Sequence[str], most: int, between: str, last: str) -> str:
    rest = len(items) - most
    return between.join(items[:most]) + (f"{last} {rest} more" if rest > 0 else "")
