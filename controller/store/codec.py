"""What a store takes, checked once for all of them, and how a body is written as JSON.

Every store runs what it is given through this module before it does anything else. So all of them
refuse the same things in the same words, and no body can be stored that would come back different.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from .port import FILTERS, MAX_BODY_BYTES, Kind, Scalar, TooLarge

_MAX_DEPTH = 64
"""Levels of nesting; MongoDB stores about a hundred, and a JSON parser recurses."""
_MAX_ID_BYTES = 512
MAX_INT = 2**63 - 1
MOST_REVISIONS = 10_000
_ESCAPE = "~"
_ESCAPED = ("$", _ESCAPE)
_TIME, _BYTES = "$time", "$bytes"

Trail: TypeAlias = "tuple[Trail, str] | None"


@dataclass(frozen=True, slots=True)
class CheckedBody:
    """A body that a store can take."""

    body: dict[str, Any]
    """A copy made of plain dicts, lists and scalars, which the caller can no longer change."""
    has_escapes: bool
    """Whether any key starts with a character that `escape` changes."""


def check_body(body: Mapping[str, Any], kind: Kind | None = None) -> CheckedBody:
    """Copy `body`; TypeError or ValueError, naming the place, if the port does not allow it.

    With a `kind`, the fields by which it is listed must be scalars, null or missing. Raises
    TooLarge above MAX_BODY_BYTES.
    """
    if not isinstance(body, Mapping):
        raise TypeError(f"a body is a mapping, not {type(body).__name__}")
    walk = _Walk()
    plain = walk.mapping(body, None, 1)
    if walk.size > MAX_BODY_BYTES:
        raise TooLarge(f"the body takes {walk.size} bytes; at most {MAX_BODY_BYTES} are stored")
    for field in FILTERS.get(kind, ()) if kind else ():
        if not isinstance(plain.get(field), str | int | None):
            raise TypeError(f"{field}: records are listed by it, so it is a text, int or bool")
    return CheckedBody(plain, walk.has_escapes)


class _Walk:
    """Copies a body and adds up the bytes that BSON would need for it."""

    def __init__(self) -> None:
        self.size = 0
        self.has_escapes = False

    def mapping(self, value: Mapping[Any, Any], trail: Trail, depth: int) -> dict[str, Any]:
        self._enter(trail, depth)
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(_at(trail, f"the key {key!r} is not text"))
            if "\0" in key:
                raise ValueError(_at(trail, f"the key {key!r} has a NUL in it"))
            if key.startswith(_ESCAPED):
                self.has_escapes = True
            here = (trail, key)
            self.size += 2 + _utf8_length(key, here)
            copy[str.__str__(key)] = self._item(item, here, depth)
        return copy

    def _sequence(self, value: list[Any], trail: Trail, depth: int) -> list[Any]:
        self._enter(trail, depth)
        copy = []
        for number, item in enumerate(value):
            index = str(number)
            self.size += 2 + len(index)
            copy.append(self._item(item, (trail, index), depth))
        return copy

    def _enter(self, trail: Trail, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(_at(trail, f"nested more than {_MAX_DEPTH} levels deep"))
        self.size += 5

    def _item(self, value: object, trail: Trail, depth: int) -> Any:
        match value:
            case None | bool():
                self.size += 1
                return value
            case str():
                self.size += 5 + _utf8_length(value, trail)
                return str.__str__(value)
            case int():
                self.size += 8
                return _int64(value, trail)
            case float():
                self.size += 8
                return _finite(value, trail)
            case bytes():
                self.size += 5 + len(value)
                return bytes(value)
            case datetime():
                self.size += 8
                return _moment(value, trail)
            case list():
                return self._sequence(value, trail, depth + 1)
            case Mapping():
                return self.mapping(value, trail, depth + 1)
        raise TypeError(_at(trail, f"a {type(value).__name__} cannot be stored"))


def check_id(id: str, what: str = "an id") -> str:
    """`id`, if it is a text of 1 to 512 UTF-8 bytes without NUL; TypeError or ValueError if not."""
    if not isinstance(id, str):
        raise TypeError(f"{what} is a text, not {type(id).__name__}")
    if not 0 < _utf8_length(id, None) <= _MAX_ID_BYTES or "\0" in id:
        raise ValueError(f"{what} has 1 to {_MAX_ID_BYTES} bytes of UTF-8 and no NUL: {id[:80]!r}")
    return str.__str__(id)


def check_number(number: int, what: str, most: int = MAX_INT) -> int:
    """`number`, if it is an int from 1 to `most`; TypeError or ValueError if not."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} is an int, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise ValueError(f"{what} is from 1 to {most}, not {number}")
    return int(number)


def check_after(after: str) -> str:
    """`after`, if it is a text that can be compared with ids; ValueError if not."""
    _utf8_length(after, None)
    return after


def check_where(
    kind: Kind, where: Mapping[str, Sequence[Scalar]] | None
) -> Mapping[str, Sequence[Scalar]]:
    """The filter as a mapping; ValueError for a field by which the kind cannot be listed."""
    for field, values in (where or {}).items():
        if field not in FILTERS.get(kind, ()):
            raise ValueError(f"{kind.value} cannot be listed by {field!r}")
        if isinstance(values, str):
            raise TypeError(f"{field}: a sequence of values is needed, not one text")
        for value in values:
            if not isinstance(value, str | int):
                raise TypeError(f"{field}: {value!r} is no text, int or bool")
            _Walk()._item(value, (None, field), 1)
    return where or {}


def check_expires(expires: datetime | None) -> datetime | None:
    """`expires` in UTC, rounded up to a millisecond; ValueError if it has no time zone."""
    if expires is None:
        return None
    if expires.utcoffset() is None:
        raise ValueError("`expires` needs a time zone")
    return to_milliseconds(expires + timedelta(microseconds=999))


def to_milliseconds(moment: datetime) -> datetime:
    """An aware `moment` in UTC, cut to the millisecond, as a body may hold it."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def escape(value: Any) -> Any:
    """A copy in which no key of any mapping starts with `$`: such keys get a `~` in front.

    So do keys that start with `~`, which is what makes it reversible. One byte for each such key.
    """
    if isinstance(value, dict):
        return {
            _ESCAPE + key if key.startswith(_ESCAPED) else key: escape(item)
            for key, item in value.items()
        }
    return [escape(item) for item in value] if isinstance(value, list) else value


def unescape(value: Any) -> Any:
    """What `escape` was given."""
    if isinstance(value, dict):
        return {key.removeprefix(_ESCAPE): unescape(item) for key, item in value.items()}
    return [unescape(item) for item in value] if isinstance(value, list) else value


def to_json(checked: CheckedBody) -> str:
    """The body as JSON. Equal bodies, types included, give equal texts.

    A datetime is `{"$time": "2026-01-31T12:00:00.250+00:00"}`, bytes are `{"$bytes": "<base64>"}`;
    no other key starts with `$`, see `escape`.
    """
    body = escape(checked.body) if checked.has_escapes else checked.body
    return json.dumps(
        body,
        default=_tagged,
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    )


def from_json(text: str) -> dict[str, Any]:
    """The body that `to_json` wrote; ValueError if the text is none of its."""
    # Most texts have no escaped key; rebuilding every mapping would take longer than the parsing.
    body = json.loads(text, object_hook=_untagged if _ESCAPE in text else _untagged_value)
    if not isinstance(body, dict):
        raise ValueError("a body is an object")
    return body


def are_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two bodies are equal, types included: 1, 1.0 and True are three values."""
    return to_json(check_body(one)) == to_json(check_body(other))


def _tagged(value: object) -> dict[str, str]:
    if isinstance(value, datetime):
        return {_TIME: value.isoformat(timespec="milliseconds")}
    assert isinstance(value, bytes)
    return {_BYTES: base64.b64encode(value).decode()}


def _untagged_value(found: dict[str, Any]) -> Any:
    if _TIME in found:
        return datetime.fromisoformat(found[_TIME])
    if _BYTES in found:
        return base64.b64decode(found[_BYTES])
    return found


def _untagged(found: dict[str, Any]) -> Any:
    value = _untagged_value(found)
    if value is not found:
        return value
    return {key.removeprefix(_ESCAPE): item for key, item in found.items()}


def _utf8_length(text: str, trail: Trail) -> int:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(_at(trail, "the text has half a surrogate pair in it")) from error


def _int64(value: int, trail: Trail) -> int:
    if not -MAX_INT - 1 <= value <= MAX_INT:
        raise ValueError(_at(trail, f"{value} does not fit into 64 bits"))
    return int(value)


def _finite(value: float, trail: Trail) -> float:
    if value - value != 0:
        raise ValueError(_at(trail, f"{value} is not finite"))
    return float(value)


def _moment(value: datetime, trail: Trail) -> datetime:
    if value.utcoffset() != timedelta(0):
        raise ValueError(_at(trail, f"{value.isoformat()} is not in UTC"))
    if value.microsecond % 1000:
        raise ValueError(_at(trail, f"{value.isoformat()} is finer than a millisecond"))
    return value.astimezone(UTC)


def _at(trail: Trail, problem: str) -> str:
    """`problem` with the path that leads to it, such as `limits.cpus.0`."""
    keys: list[str] = []
    while trail:
        trail, key = trail
        keys.append(key)
    return f"{'.'.join(reversed(keys))}: {problem}" if keys else problem
