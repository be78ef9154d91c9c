"""Sizes as people write them: "512MiB"."""

from __future__ import annotations

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def bytes_of(text: str) -> int | None:
    """The bytes that a size such as "512MiB" or "1.5GiB" means; None if it is none."""
    digits = text.rstrip("BKiMG")
    unit = text[len(digits) :]
    try:
        return round(float(digits) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        return None
