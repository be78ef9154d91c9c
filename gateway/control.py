"""What deployments and runs have in common: the parts of a body, and how a list is asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.operation import Query

RequestId = Annotated[
    str,
    Field(
        max_length=64,
        pattern="^[A-Za-z0-9._-]*$",
        description="Makes it safe to send the request again.",
    ),
]
NoWait = Annotated[
    bool,
    Field(description="Answer as soon as the wish is written down, instead of when it is done."),
]
Version = Annotated[int, Field(ge=0, le=2**32 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z0-9._-]+$")]
PageToken = Annotated[str, Field(description="From the answer before; empty for the first page.")]
WAITS = (
    "Answers when that has been reached, or at once with `no_wait`. When the time is up first, the "
    "answer is 504 and the work goes on: a deadline undoes nothing."
)


def states_of(enum: Any) -> Any:
    """A query parameter that takes the names of an enum's values, any number of times."""
    names = tuple(
        value.name.removeprefix(enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED"))
        for value in enum.DESCRIPTOR.values
        if value.number
    )
    return list[Literal[names]]  # type: ignore[valid-type]


def numbers_of(enum: Any, states: list[str]) -> list[Any]:
    """The numbers of states that `states_of` allowed."""
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return [enum.Value(prefix + state) for state in states]


class EventsQuery(Query):
    """Which page of a history."""

    page_size: int = Field(default=0, ge=0, le=500, description="Most in one answer; 0: 100.")
    page_token: PageToken = ""


class PageQuery(Query):
    """Which page of a list."""

    page_size: int = Field(default=0, ge=0, le=1000, description="Most in one answer; 0: 100.")
    page_token: PageToken = ""
