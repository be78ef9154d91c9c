"""Counts what a message holds before it is parsed.

A message of 16 MiB may hold eight million empty ones, which take half a second to parse and 20
times their size in memory. https://protobuf.dev/programming-guides/encoding is what this follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

Descriptor: TypeAlias = Any
"""Of a message; each implementation of protobuf has a class of its own for it."""
Inner: TypeAlias = Mapping[int, Descriptor]
"""The fields of a message, by number, that may hold many entries themselves."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)


def has_more_entries(raw: bytes, kind: Descriptor, most: int) -> bool:
    """Whether a message of that type holds more than `most` entries, on all its levels together.

    An entry is a field that is set, or one element of a repeated one; numbers that are packed are
    one entry, and so is a message that holds nothing but numbers. Ends at entry `most` + 1, and
    is False for what the parser will not take for a message.
    """
    levels = [(0, len(raw), _inner(kind))]
    try:
        while levels:
            start, end, inner = levels.pop()
            while start < end:
                most -= 1
                if most < 0:
                    return True
                # Nearly all tags and many sizes are one byte, and a call would take twice the time.
                tag, start = raw[start], start + 1
                if tag >= 0x80:
                    tag, start = _varint(raw, start - 1)
                wire_type = tag & 7
                if wire_type == _BYTES:
                    size, start = raw[start], start + 1
                    if size >= 0x80:
                        size, start = _varint(raw, start - 1)
                    message = inner.get(tag >> 3)
                    if message is not None:
                        levels.append((start, min(end, start + size), _inner(message)))
                    start += size
                elif wire_type == _VARINT:
                    _, start = _varint(raw, start)
                elif wire_type == _FIXED32:
                    start += 4
                elif wire_type == _FIXED64:
                    start += 8
                # Groups, which nobody sends, are entries that begin and end.
    except IndexError:
        return False
    return False


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next field begins."""
    byte = raw[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    for place in range(at + 1, at + 10):
        byte = raw[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise IndexError("no number takes more than ten bytes")


@cache
def _inner(kind: Descriptor) -> Inner:
    """The fields of `kind` to be looked into."""
    return {
        field.number: field.message_type
        for field in kind.fields
        if field.message_type is not None and _may_hold_many(field.message_type, ())
    }


def _may_hold_many(kind: Descriptor, above: tuple[Descriptor, ...]) -> bool:
    """Whether a message of that type can hold many texts or messages, at any depth."""
    if kind in above:
        return True
    texts = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    for field in kind.fields:
        inner = field.message_type
        if field.is_repeated and (inner is not None or field.type in texts):
            return True
        if inner is not None and _may_hold_many(inner, (*above, kind)):
            return True
    return False
