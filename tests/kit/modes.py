"""Which files and folders others than their owner may use."""

from __future__ import annotations

from pathlib import Path


def wide(folder: Path) -> list[Path]:
    """`folder` and what is in it, of which others have any right."""
    return [
        path for path in every(folder) if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


def every(folder: Path) -> list[Path]:
    """`folder` and all that is in it."""
    return sorted([folder, *folder.rglob("*")])
