"""Calls to the services behind the gateway, over one channel each."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from grpc import aio

from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.client import wire
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.ensemble_service_pb2_grpc import EnsembleServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.oip import open_inference_pb2
from trillium.oip.service import INFERENCE_SERVICE
from trillium.rpc.channels import PLAINTEXT, Access, link_channel

from .operation import HttpRequest


class Backend:
    """A service at an address, called within the deadline of a request."""

    def __init__(self, address: str, access: Access = PLAINTEXT) -> None:
        self.address = address
        self._channel = link_channel(address, access)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, method: Any, request: Any, http: HttpRequest) -> Any:
        """The answer to one call. Raises TrilliumError."""
        left_s = http.left_s
        try:
            return await method(request, timeout=left_s, metadata=http.metadata)
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self.address, left_s) from failure

    async def stream(
        self, method: Any, request: Any, http: HttpRequest, timeout_s: float | None
    ) -> AsyncGenerator[Any]:
        """The answers of a streaming call, with a deadline in `timeout_s` or without one.

        Closing it cancels the call. Raises TrilliumError.
        """
        call = method(request, timeout=timeout_s, metadata=http.metadata)
        try:
            while (answer := await call.read()) is not aio.EOF:
                yield answer
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self.address, timeout_s or 0.0) from failure
        finally:
            call.cancel()


class Aggregator(Backend):
    """The aggregator."""

    def __init__(self, address: str, access: Access = PLAINTEXT) -> None:
        super().__init__(address, access)
        self.stub = AggregatorServiceStub(self._channel)

    async def infer(self, request: Message, http: HttpRequest) -> Any:
        """The answer to a request of the Open Inference Protocol. Raises TrilliumError."""
        # The protocol names each request and response after its RPC.
        rpc = type(request).__name__.removesuffix("Request")
        read = getattr(open_inference_pb2, f"{rpc}Response").FromString
        method = self._channel.unary_unary(
            f"/{INFERENCE_SERVICE}/{rpc}", type(request).SerializeToString, read
        )
        return await self.ask(method, request, http)


class Controller(Backend):
    """The controller and its services."""

    def __init__(self, address: str, access: Access = PLAINTEXT) -> None:
        super().__init__(address, access)
        self.deployments = ControllerServiceStub(self._channel)
        self.ensembles = EnsembleServiceStub(self._channel)
        self.runs = RunServiceStub(self._channel)
        self.catalog = CatalogServiceStub(self._channel)
