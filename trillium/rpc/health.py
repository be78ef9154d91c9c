"""`grpc.health.v1.Health`, true at every moment.

grpcio-health-checking's own asyncio servicer is not used: when one of two watchers of a service
leaves, the other one gets no further change, and a watcher that does not read blocks whoever sets
a status. Its messages are used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence

from grpc_health.v1 import health_pb2

from trillium.errors import Code, RemoteError
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.waking import Bell

SERVICE_NAME = "grpc.health.v1.Health"

_Response = health_pb2.HealthCheckResponse


class Health:
    """The serving status of a server ("") and of each of its services."""

    def __init__(self, services: Sequence[str]) -> None:
        """Everything but this service is NOT_SERVING until `set_serving` changes it."""
        self._ready = dict.fromkeys(("", *services), False)
        self._ready[SERVICE_NAME] = True
        self._failing: set[str] = set()
        self._changed = Bell()
        self._ended = False

    def set_serving(self, serving: bool, *services: str) -> None:
        """Set the status of `services`, or of everything if none is named.

        After `end` nothing can be set.
        """
        if self._ended:
            return
        before = dict(self._ready)
        self._ready.update(dict.fromkeys(services or tuple(self._ready), serving))
        if self._ready != before:
            self._changed.ring()

    def report(self, task: str, failing: bool) -> None:
        """A background task keeps failing, or has recovered: meanwhile nothing is SERVING."""
        (self._failing.add if failing else self._failing.discard)(task)
        self._changed.ring()

    @property
    def failing(self) -> Collection[str]:
        """The background tasks that keep failing."""
        return tuple(self._failing)

    def is_serving(self, service: str = "") -> bool:
        """Whether that service is SERVING; KeyError for one that this server does not have."""
        return self._ready[service] and (not self._failing or service == SERVICE_NAME)

    def end(self) -> None:
        """NOT_SERVING from now on and for good; watchers get that, and their streams end."""
        self.set_serving(False)
        self._ended = True
        self._changed.ring()

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        health = health_pb2.DESCRIPTOR.services_by_name["Health"]
        return service_of(health, {"Check": self._check, "Watch": self._watch}, foreign=True)

    async def _check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._ready:
            known = ", ".join(name for name in self._ready if name)
            text = f"no service {request.service!r} here; there are {known}"
            raise RemoteError(Code.NOT_FOUND, "UNKNOWN_SERVICE", text)
        return _Response(status=self._status(request.service))

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse]:
        last = None
        while True:
            changed = self._changed.next()
            status = self._status(request.service)
            if status != last:
                last = status
                yield _Response(status=status)
                continue  # While it was being sent, the status may have changed, or all ended.
            if self._ended:
                return
            await changed.wait()

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        if service not in self._ready:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self.is_serving(service) else _Response.NOT_SERVING
