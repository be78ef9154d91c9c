"""Resource names, ids and page tokens: checked at the edge, so that no name is ever a path."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Protocol

from google.protobuf.message import Message

from trillium.controller.v1 import record_pb2
from trillium.errors import InvalidRequest

_ID = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?\Z")
_TOKEN = re.compile(r"[A-Za-z0-9._-]*\Z")

_MOST_UNREADABLE = 100

DEPLOYMENTS = "deployments/"
ENSEMBLES = "ensembles/"
RUNS = "runs/"
LONGEST_DEPLOYMENT_ID = 40
LONGEST_RUN_ID = 32
LONGEST_ENSEMBLE_ID = 64


class Unreadable(Protocol):
    """Records of one kind."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The reasons by id."""
        ...


def checked_id(text: str, field: str, most: int) -> str:
    """An id: lower-case letters, digits and '-', starting with a letter; raises InvalidRequest."""
    if not _ID.match(text) or len(text) > most:
        allowed = "lower-case letters, digits and '-', starting with a letter, ending with none"
        raise InvalidRequest.of(field, f"is {text[:80]!r}; allowed: {allowed} '-', at most {most}")
    return text


def id_in(name: str, prefix: str, field: str, most: int) -> str:
    """The id in a resource name such as "deployments/a1"; raises InvalidRequest."""
    if not name.startswith(prefix):
        raise InvalidRequest.of(field, f"is {name[:80]!r}; expected {prefix}ID")
    return checked_id(name.removeprefix(prefix), field, most)


def checked_token(text: str, field: str, most: int) -> str:
    """A request id or watcher id: letters, digits, '.', '_' and '-'; raises InvalidRequest."""
    if not _TOKEN.match(text) or len(text) > most:
        allowed = f"letters, digits, '.', '_' and '-', at most {most}"
        raise InvalidRequest.of(field, f"is {text[:80]!r}; allowed: {allowed}")
    return text


def request_digest(request: Message) -> str:
    """The digest of a request's type and content, by which a repeated request id is recognized."""
    content = request.SerializeToString(deterministic=True)
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + content).hexdigest()


def made_up_id(letter: str, request_id: str) -> str:
    """An id for a resource whose caller gave none: the same for the same request id."""
    if not request_id:
        return letter + secrets.token_hex(8)
    return letter + hashlib.sha256(request_id.encode()).hexdigest()[:16]


def unreadable(records: Unreadable, prefix: str, token: str) -> list[record_pb2.UnreadableRecord]:
    """The records that cannot be read, for the page of `token`: the first one has them."""
    if token:
        return []
    return [
        record_pb2.UnreadableRecord(name=prefix + id, detail=reason)
        for id, reason in sorted(records.unreadable.items())[:_MOST_UNREADABLE]
    ]


def page_size(asked: int, default: int, most: int) -> int:
    """The number of items in a page; raises InvalidRequest."""
    if asked > most:
        raise InvalidRequest.of("page_size", f"is {asked}; at most {most} allowed")
    return asked or default


def page_token(after: str) -> str:
    """The token of the page after the item `after`."""
    return base64.urlsafe_b64encode(after.encode()).decode()


def after_of(token: str) -> str:
    """The item that `page_token` was made of; "" for the first page. Raises InvalidRequest."""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        text = f"is {token[:80]!r}; expected the next_page_token of a response"
        raise InvalidRequest.of("page_token", text) from error
