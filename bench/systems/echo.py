"""A bare grpc.aio server that answers every Classify with the bytes of its request: no work at all.

    python -m bench.systems.echo ADDRESS

The ceiling of what grpc.aio can do with this message on this machine.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from grpc import aio

from bench.systems.naive import serve_until_told

SERVICE = "trillium.aggregator.v1.AggregatorService"


async def echo(request: bytes, _: aio.ServicerContext[bytes, bytes]) -> bytes:
    """The request."""
    return request


async def main(address: str) -> None:
    """Serve until SIGTERM."""
    server = aio.server()
    handlers: dict[str, Any] = {"Classify": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    await serve_until_told(server, address)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
