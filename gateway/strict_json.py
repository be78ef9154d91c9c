"""JSON as its standard has it: what Python's parser forgives is refused here."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from trillium.errors import MalformedMessage

MOST = 2**17
"""Arrays, objects or keys of one body: twice the most rows of a request."""


def parse(raw: bytes) -> Any:
    """The value that a body holds.

    Raises MalformedMessage for what is no JSON in UTF-8, for NaN and Infinity, for a key that comes
    twice in one object, for integers of thousands of digits, for halves
    of surrogate pairs, for nesting without end, and for more than `MOST` arrays, objects or keys.
    """
    _check_counts(raw)
    try:
        value = _DECODER.decode(raw.decode())
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        text = "a surrogate without its other half, which is no character"
        raise MalformedMessage(f"the body holds {text}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedMessage(f"the body is no JSON: {error.msg} at {where}") from error
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"the body is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise MalformedMessage("the body is nested too deeply") from error
    except ValueError as error:  # Python's limit of an integer's digits
        raise MalformedMessage("the body holds a number that is too long") from error


def _check_counts(raw: bytes) -> None:
    """Count what becomes an object of Python's before it does: of `[]` 16 MiB hold five million.

    Marks inside of texts count as well, which no request has by the hundred thousand.
    """
    for mark, what in ((b"[", "arrays"), (b"{", "objects"), (b":", "keys")):
        count = raw.count(mark)
        if count > MOST:
            text = f"the body holds {count} {what}: expected at most {MOST}; send fewer rows"
            raise MalformedMessage(text)


def _constant(name: str) -> NoReturn:
    raise MalformedMessage(f"the body holds {name}, which JSON does not know; finite numbers only")


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedMessage(f"the key {_repeated(pairs)[:60]!r} comes twice in one object")
    return result


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    """The first key that came before. Linear: a body may hold a million keys."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key comes twice")


_DECODER = json.JSONDecoder(object_pairs_hook=object_of, parse_constant=_constant)
