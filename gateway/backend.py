"""Calls of the services behind the gateway: one channel to each for as long as the gateway runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Self

import grpc
from grpc import aio

from gateway.operation import Asked
from trillium import wire
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.rpc.channels import link_channel


class Backend:
    """A service at an address, and calls of it within the time of a request."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = link_channel(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, method: Any, request: Any, asked: Asked) -> Any:
        """The answer to one call. Raises TrilliumError."""
        left_s = asked.left_s
        try:
            return await method(request, timeout=left_s, metadata=asked.metadata)
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self.address, left_s) from failure

    async def stream(
        self, method: Any, request: Any, asked: Asked, timeout_s: float | None
    ) -> AsyncGenerator[Any]:
        """The answers of a call that streams them, within `timeout_s` or without end.

        Close it to withdraw the call. Raises TrilliumError.
        """
        call = method(request, timeout=timeout_s, metadata=asked.metadata)
        try:
            while (answer := await call.read()) is not aio.EOF:
                yield answer
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self.address, timeout_s or 0.0) from failure
        finally:
            call.cancel()


class Aggregator(Backend):
    """The aggregator."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.stub = AggregatorServiceStub(self._channel)
        self._check: Any = self._channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

    async def is_serving(self, asked: Asked) -> bool:
        """Whether every class can answer. Raises TrilliumError when the aggregator does not."""
        return wire.is_serving(await self.ask(self._check, wire.health_request(""), asked))


class Controller(Backend):
    """The controller and its services."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.deployments = ControllerServiceStub(self._channel)
        self.runs = RunServiceStub(self._channel)
        self.catalog = CatalogServiceStub(self._channel)
