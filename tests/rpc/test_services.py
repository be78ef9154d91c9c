"""Every service's handlers take and return the messages of their RPCs."""

from __future__ import annotations

import inspect
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from aggregator.service import AggregatorServicer
from controller.catalog.service import CatalogServicer
from controller.deployments.service import ControllerServicer
from controller.discovery.service import DiscoveryServicer
from controller.runs.service import RunServicer
from predictor.model_service import ModelServicer
from predictor.service import PredictorServicer
from trillium.aggregator.v1 import aggregator_service_pb2
from trillium.controller.v1 import (
    catalog_service_pb2,
    controller_service_pb2,
    discovery_service_pb2,
    run_service_pb2,
)
from trillium.oip import open_inference_pb2
from trillium.oip.service import InferenceServicer
from trillium.predictor.v1 import model_service_pb2, predictor_service_pb2
from trillium.rpc.health import Health
from trillium.rpc.methods import MethodKind, service_of

MODULES: tuple[Any, ...] = (
    aggregator_service_pb2,
    catalog_service_pb2,
    controller_service_pb2,
    discovery_service_pb2,
    health_pb2,
    model_service_pb2,
    open_inference_pb2,
    predictor_service_pb2,
    run_service_pb2,
)
RUN_SERVICE: ServiceDescriptor = run_service_pb2.DESCRIPTOR.services_by_name["RunService"]


@pytest.mark.parametrize(
    "servicer",
    [
        AggregatorServicer,
        CatalogServicer,
        ControllerServicer,
        DiscoveryServicer,
        Health,
        InferenceServicer,
        ModelServicer,
        PredictorServicer,
        RunServicer,
    ],
)
def test_handlers_have_the_types_of_their_rpcs(servicer: Any) -> None:
    # With the class as its instance, the handlers are its functions.
    service = servicer.service(servicer)
    assert service.methods
    for method in service.methods:
        handler = inspect.unwrap(method.handler)
        parameters = inspect.signature(handler).parameters
        parameter = next(name for name in parameters if name != "self")
        hints = get_type_hints(handler)
        streams_requests, streams_responses = method.kind.value
        assert message_of(hints[parameter]) is method.request_type, method.name
        assert (get_origin(hints[parameter]) is not None) == streams_requests, method.name
        assert message_of(hints["return"]) is response_of(service.name, method.name), method.name
        assert (get_origin(hints["return"]) is not None) == streams_responses, method.name


def response_of(service: str, rpc: str) -> Any:
    """The message class that an RPC returns."""
    for module in MODULES:
        found = module.DESCRIPTOR.services_by_name.get(service.rpartition(".")[2])
        if found is not None:
            return GetMessageClass(found.methods_by_name[rpc].output_type)
    raise KeyError(service)


def message_of(hint: Any) -> Any:
    """`hint`, or what an iterator of that type yields."""
    arguments = get_args(hint)
    return arguments[0] if arguments else hint


async def handle(request: Any, call: Any) -> Any:
    raise AssertionError


def test_a_service_has_one_handler_for_each_rpc() -> None:
    names = [rpc.name for rpc in RUN_SERVICE.methods]
    service = service_of(RUN_SERVICE, dict.fromkeys(names, handle))
    kinds = {method.name: method.kind for method in service.methods}
    assert service.name == "trillium.controller.v1.RunService"
    assert kinds["CreateRun"] is MethodKind.UNARY_UNARY
    assert kinds["WatchRun"] is MethodKind.UNARY_STREAM
    with pytest.raises(ValueError, match=r"RunService: CreateRun, WatchRun$"):
        service_of(RUN_SERVICE, dict.fromkeys(set(names) - {"WatchRun", "CreateRun"}, handle))
    with pytest.raises(ValueError, match="RunService: Nonesuch"):
        service_of(RUN_SERVICE, dict.fromkeys([*names, "Nonesuch"], handle))
    foreign = service_of(RUN_SERVICE, {"GetRun": handle}, foreign=True)
    assert [method.name for method in foreign.methods] == ["GetRun"]
    with pytest.raises(ValueError, match="RunService: Nonesuch"):
        service_of(RUN_SERVICE, {"Nonesuch": handle}, foreign=True)
