"""Calls as values: what is sent, within which time, and how the answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

DEFAULT_TIMEOUT_S = 10.0
VERB_TIMEOUT_S = 120.0
"""Verbs wait until predictors have started or loaded, which takes long on a busy machine."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unary(Generic[T]):
    """A call with one answer."""

    method: Any
    request: Any
    """A message; for an upload an iterator of messages, which reads the file as it goes."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    read: Callable[[Any], T] = lambda answer: answer
    """Turns the answer into what the client returns."""
    is_upload: bool = False


@dataclass(frozen=True, slots=True)
class Stream(Generic[T]):
    """A call with many answers, or a listing, which takes one call for each page."""

    method: Any
    request: Any
    read: Callable[[Any], Iterable[T]]
    """Returns the items of one answer or page."""
    is_paged: bool = False


def prefixed(prefix: str, name: str) -> str:
    """A resource name, of which the id alone may be given."""
    return name if name.startswith(prefix) else prefix + name
