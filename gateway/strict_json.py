"""Strict JSON (RFC 8259): refuses what Python's parser tolerates."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from trillium.errors import MalformedMessage

MOST = 2**17
"""Maximum number of arrays, objects or keys in a body: twice the maximum rows of a request."""
MOST_VALUES = 2**21
"""Maximum number of values in a body. More take seconds, in which nobody else is served, and
hundreds of megabytes: they are better sent as binary data."""


def parse(raw: bytes) -> Any:
    """The value of a body.

    Raises MalformedMessage for anything but JSON in UTF-8: also for NaN and Infinity, duplicate
    keys, integers of thousands of digits, unpaired surrogates, excessive nesting, and more than
    `MOST` arrays, objects or keys.
    """
    _check_counts(raw)
    try:
        value = _DECODER.decode(raw.decode())
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        text = "an unpaired surrogate, which is not a character"
        raise MalformedMessage(f"the body holds {text}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedMessage(f"the body is not JSON: {error.msg} at {where}") from error
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"the body is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise MalformedMessage("the body is nested too deeply") from error
    except ValueError as error:  # Python's limit of an integer's digits
        raise MalformedMessage("the body holds a number that is too long") from error


def _check_counts(raw: bytes) -> None:
    """Count what becomes a Python object before parsing: 16 MiB can hold five million `[]`.

    Marks inside strings count as well; no valid request has hundreds of thousands of them.
    """
    for mark, what, most in (
        (b"[", "arrays", MOST),
        (b"{", "objects", MOST),
        (b":", "keys", MOST),
        (b",", "values", MOST_VALUES),
    ):
        count = raw.count(mark)
        if count > most:
            text = f"the body holds {count} {what}: expected at most {most}; send fewer rows"
            raise MalformedMessage(text)


def _constant(name: str) -> NoReturn:
    raise MalformedMessage(f"the body contains {name}, which is not JSON; expected finite numbers")


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedMessage(f"duplicate key {_repeated(pairs)[:60]!r} in one object")
    return result


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    """The first duplicate key, in linear time: a body may have 100,000 keys."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


_DECODER = json.JSONDecoder(object_pairs_hook=object_of, parse_constant=_constant)
