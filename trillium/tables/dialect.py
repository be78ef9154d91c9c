"""How a CSV file is written, as far as its author declares it. Imports no library."""

from __future__ import annotations

from dataclasses import dataclass

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written, as far as that is declared."""

    delimiter: str = ""
    """A key of `DELIMITERS`; empty: recognized by the first lines."""
    decimal: str = "."
    """"." or ","."""
    header: bool | None = None
    """Whether the first line names the columns; None: recognized by what stands there."""

    def __post_init__(self) -> None:
        if self.delimiter and self.delimiter not in DELIMITERS:
            allowed = ", ".join(DELIMITERS.values())
            raise ValueError(f"the delimiter is {self.delimiter!r}; expected one of {allowed}")
        if self.decimal not in (".", ","):
            raise ValueError(f"the decimal sign is {self.decimal!r}; expected '.' or ','")
        if self.decimal == self.delimiter:
            raise ValueError("the decimal sign is the delimiter; expected two different ones")


DEFAULT = Dialect()


def delimiter_named(text: str) -> str:
    """The delimiter that a person means by its sign or its name; raises ValueError."""
    for sign, name in DELIMITERS.items():
        if text in (sign, name) or (text == r"\t" and sign == "\t"):
            return sign
    allowed = ", ".join(DELIMITERS.values())
    raise ValueError(f"the delimiter is {text!r}; expected one of {allowed}")
