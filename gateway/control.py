"""What the routes to the controller share: parts of bodies, pages of lists, and the call itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from google.protobuf.message import Message
from pydantic import Field
from starlette.responses import Response

from .backend import Controller
from .messages import to_json
from .operation import HttpRequest, Query, json_response

RequestId = Annotated[
    str,
    Field(
        max_length=64,
        pattern="^[A-Za-z0-9._-]*$",
        description="Makes a retry safe: a request with the same id is applied once.",
    ),
]
NoWait = Annotated[
    bool,
    Field(description="Return once the request is recorded, instead of when it is done."),
]
Version = Annotated[int, Field(ge=0, le=2**32 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z0-9._-]+$")]
DeploymentId = Annotated[
    str, Field(max_length=40, pattern="^([a-z]([a-z0-9-]*[a-z0-9])?)?$", examples=["a1"])
]
PageToken = Annotated[
    str, Field(description="`next_page_token` of the previous page; empty for the first page.")
]
WAITS = (
    "Returns when the work is done, or at once with `no_wait`. If the time runs out first, the "
    "status is 504 and the work continues: a deadline undoes nothing."
)


async def answer(
    controller: Controller, method: Any, request: Message, http: HttpRequest
) -> Response:
    """The controller's answer to one call, as JSON. Raises TrilliumError."""
    return json_response(to_json(await controller.ask(method, request, http)))


async def created(
    controller: Controller, method: Any, request: Message, http: HttpRequest, path: str
) -> Response:
    """As `answer`, for a call that makes a resource below `path`."""
    message: Any = await controller.ask(method, request, http)
    id = message.name.rpartition("/")[2]
    return json_response(to_json(message), status=201, headers={"location": f"{path}/{id}"})


def states_of(enum: Any) -> Any:
    """The type of a query parameter that takes any number of an enum's names."""
    names = tuple(
        value.name.removeprefix(enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED"))
        for value in enum.DESCRIPTOR.values
        if value.number
    )
    return list[Literal[names]]  # type: ignore[valid-type]


def numbers_of(enum: Any, states: list[str]) -> list[Any]:
    """The enum's numbers for names that `states_of` allowed."""
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return [enum.Value(prefix + state) for state in states]


class DeleteQuery(Query):
    """How something is deleted."""

    validate_only: bool = Field(
        default=False, description="Only check whether it can be deleted, and change nothing."
    )


class PageQuery(Query):
    """A page of a list."""

    page_size: int = Field(default=0, ge=0, le=1000, description="Maximum per page; 0: 100.")
    page_token: PageToken = ""


class ShortPageQuery(PageQuery):
    """A page of a list whose pages are shorter."""

    page_size: int = Field(default=0, ge=0, le=500, description="Maximum per page; 0: 100.")
