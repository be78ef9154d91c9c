"""Texts that servers and files have named, shown as they are: without markup, and without control
characters, which a terminal would obey."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from trillium.cli.options import visible


class PlainTable(Table):
    """A table that shows what its cells hold, and folds what is too wide for a terminal."""

    def __init__(self) -> None:
        super().__init__(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title_justify="left",
            title_style="bold",
        )

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """As the base class; `header` is plain text."""
        super().add_column(as_written(header), *args, **{"overflow": "fold", **options})

    def add_row(self, *cells: Any, **options: Any) -> None:
        """As the base class; texts are plain."""
        super().add_row(*map(as_written, cells), **options)


def as_written(value: Any) -> Any:
    """A text for the screen; what is none as it is."""
    if isinstance(value, str):
        return Text(visible(value))
    if not isinstance(value, Text) or (shown := visible(value.plain)) == value.plain:
        return value
    return Text(shown, style=value.style)
