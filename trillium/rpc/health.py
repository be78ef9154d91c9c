"""`grpc.health.v1.Health`, true at every moment.

grpcio-health-checking's own asyncio servicer is not used: when one of two watchers of a service
leaves, the other one is never told of a change again, and a watcher that does not read holds up
whoever sets a status. Its messages are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from grpc_health.v1 import health_pb2

from trillium.errors import Code, RemoteError
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, unary_stream, unary_unary
from trillium.waking import Bell

SERVICE_NAME = "grpc.health.v1.Health"

_Response = health_pb2.HealthCheckResponse


class Health:
    """The serving status of a server ("") and of each of its services."""

    def __init__(self, services: Sequence[str]) -> None:
        """Everything but this service is NOT_SERVING until `set_serving` says otherwise."""
        self._status = dict.fromkeys(("", *services), _Response.NOT_SERVING)
        self._status[SERVICE_NAME] = _Response.SERVING
        self._changed = Bell()
        self._ended = False

    def set_serving(self, serving: bool, *services: str) -> None:
        """Set the status of `services`, or of everything if none is named.

        After `end` nothing can be set.
        """
        if self._ended:
            return
        status = _Response.SERVING if serving else _Response.NOT_SERVING
        before = dict(self._status)
        self._status.update(dict.fromkeys(services or tuple(self._status), status))
        if self._status != before:
            self._changed.ring()

    def is_serving(self, service: str = "") -> bool:
        """Whether that service is SERVING; KeyError for one that this server does not have."""
        return bool(self._status[service] == _Response.SERVING)

    def end(self) -> None:
        """NOT_SERVING from now on and for good; watchers are told and then let go."""
        self.set_serving(False)
        self._ended = True
        self._changed.ring()

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            SERVICE_NAME,
            (
                unary_unary("Check", health_pb2.HealthCheckRequest, self._check),
                unary_stream("Watch", health_pb2.HealthCheckRequest, self._watch),
            ),
        )

    async def _check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._status:
            known = ", ".join(name for name in self._status if name)
            text = f"no service {request.service!r} here; there are {known}"
            raise RemoteError(Code.NOT_FOUND, "UNKNOWN_SERVICE", text)
        return _Response(status=self._status[request.service])

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed.next()
            status = self._status.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != last:
                last = status
                yield _Response(status=status)
                continue  # While it was being sent, the status may have changed, or all ended.
            if self._ended:
                return
            await changed.wait()
