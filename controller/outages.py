"""A store that does not answer, as the error that callers of the controller get."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from trillium.errors import StoreDown
from trillium.rpc.call import Call
from trillium.rpc.methods import RpcMethod, Service

from .store.port import StoreUnavailable

_TEXT = "the store does not answer; it is unknown whether a change was made: try again"


def reporting_outages(service: Service) -> Service:
    """`service`, whose handlers raise StoreDown where they raised StoreUnavailable.

    Every other error of a store needs a person and stays an internal error.
    """
    return replace(service, methods=tuple(_reporting(method) for method in service.methods))


def _reporting(method: RpcMethod) -> RpcMethod:
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
