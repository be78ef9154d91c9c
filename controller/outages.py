"""A store that does not answer, as callers of the controller are told of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from controller.store.port import StoreUnavailable
from trillium.errors import StoreDown
from trillium.rpc.call import Call
from trillium.rpc.methods import Method, Service

_TEXT = "the store does not answer; whether a change was made is not known: ask again"


def telling_outages(service: Service) -> Service:
    """`service`, whose handlers raise StoreDown where they raised StoreUnavailable.

    Every other error of a store needs a person and stays an internal error.
    """
    return replace(service, methods=tuple(_telling(method) for method in service.methods))


def _telling(method: Method) -> Method:
    handler = method.handler
    _, answers_a_stream = method.kind.value

    async def single(request: Any, call: Call) -> Any:
        try:
            return await handler(request, call)
        except StoreUnavailable as error:
            raise StoreDown(_TEXT) from error

    async def several(request: Any, call: Call) -> AsyncGenerator[Any]:
        try:
            async with aclosing(handler(request, call)) as responses:
                async for response in responses:
                    yield response
        except StoreUnavailable as error:
            raise StoreDown(_TEXT) from error

    return replace(method, handler=several if answers_a_stream else single)
