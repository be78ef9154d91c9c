"""What a modelled world consists of: plain tuples, so that equal worlds are found fast."""

from __future__ import annotations

from typing import NamedTuple

STARTING, RUNNING, EXITED = range(3)


class Box(NamedTuple):
    """A container in the engine, with its predictor."""

    instance: int
    attempt: int
    number: int
    """Tells containers of one name apart that follow one another: with it, an id is unique."""
    state: int
    address: int
    """The lowest that is free, so that addresses are used again as soon as they can be."""
    digest: str = ""
    """Of the model that its predictor holds."""
    incoming: str = ""
    """Of the one that it is reading."""
    fence: int = 0
    """The highest order that its predictor has carried out."""
    hangs: bool = False
    """Whether its predictor does not answer."""

    @property
    def id(self) -> str:
        return f"{self.instance}.{self.attempt}.{self.number}"


class Request(NamedTuple):
    """Something asked of the engine (`create`, `remove`) or of a predictor (`load`, `unload`)."""

    verb: str
    instance: int
    attempt: int = 0
    number: int = 0
    address: int = 0
    digest: str = ""
    order: int = 0

    def __str__(self) -> str:
        if self.verb == "create":
            return f"create {self.instance}.{self.attempt}"
        if self.verb == "remove":
            return f"remove {self.instance}.{self.attempt}.{self.number}"
        what = f"{self.verb} {self.digest}".rstrip()
        return f"{what} at a{self.address} by order {self.order}"


NOTHING = Request("", 0)

IDLE, HAS_READ, HAS_LOOKED, WRITES, ASKS = range(5)


class Mind(NamedTuple):
    """A controller, as far as it remembers anything."""

    does: int = IDLE
    """IDLE: between two rounds, or after a crash.
    HAS_READ: it has read `document` just before that was changed by someone else. One that has read
    what is still written is as good as one that is idle, so it is not kept apart.
    HAS_LOOKED: it has seen `boxes`, but has not read yet (in a mutation only).
    WRITES: it is about to put `instance` at `place`, if nobody wrote since it read.
    ASKS: it is about to send `request`, or waits until it is carried out."""
    document: int = 0
    place: int = 0
    instance: int = 0
    flag: bool = False
    """WRITES: whether something took too long or was refused, so that what runs may be given up.
    ASKS: whether the document has not changed since it was read."""
    request: Request = NOTHING
    boxes: tuple[Box, ...] = ()


class Left(NamedTuple):
    """What may still go wrong on this path."""

    changes: int
    deaths: int
    late: int
    overruns: int
    hangs: int = 0


class State(NamedTuple):
    """A whole world."""

    document: int
    boxes: tuple[Box, ...]
    minds: tuple[Mind, ...]
    under_way: tuple[Request, ...]
    """Requests whose senders no longer wait for them."""
    left: Left


class Violation(Exception):
    """Something happens that never may."""

    def __init__(self, problem: str, what: tuple[object, ...] = ()) -> None:
        """`what` happens, for a person; empty if the state as such is wrong."""
        super().__init__(problem)
        self.what = what
