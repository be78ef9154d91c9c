"""Server reflection that carries the comments of the protos, so that `describe` teaches the API.

Descriptors in a running program have lost their comments. The generator therefore keeps the
descriptors with their comments in `trillium/descriptors.binpb`, and reflection answers from there.

What only answers need is imported with the first question: it takes 1 MB, and few are asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of

if TYPE_CHECKING:
    from google.protobuf import descriptor_pb2

SERVICE_NAME = "grpc.reflection.v1alpha.ServerReflection"


def reflection_service(services: Sequence[Service]) -> Service:
    """The gRPC service that answers for the descriptors of `services`, and of reflection itself."""
    names = (*(service.name for service in services), SERVICE_NAME)
    pools = {
        method.request_type.DESCRIPTOR.file.pool: None
        for service in services
        for method in service.methods
    }
    pools.pop(descriptor_pool.Default(), None)
    # The default pool may have other messages of the same name, which somebody else's client uses.
    pool = SeveralPools((*pools, descriptor_pool.Default()))

    @cache
    def servicer() -> Any:
        from grpc_reflection.v1alpha import reflection

        return reflection.aio.ReflectionServicer(names, pool=pool)

    def answers(requests: AsyncIterator[Any], _: Call) -> AsyncGenerator[Any]:
        found: AsyncGenerator[Any] = servicer().ServerReflectionInfo(requests, None)
        return found

    reflection = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    return service_of(reflection, {"ServerReflectionInfo": answers}, foreign=True)


@cache
def _commented_files() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    from importlib import resources

    from google.protobuf import descriptor_pb2

    raw = (resources.files("trillium") / "descriptors.binpb").read_bytes()
    return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file}


class _CommentedFile:
    """The part of a FileDescriptor that reflection uses, with comments where there are any."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.name = file.name
        self.package = file.package

    @property
    def dependencies(self) -> list[_CommentedFile]:
        return [_CommentedFile(file) for file in self._file.dependencies]

    @property
    def serialized_pb(self) -> bytes:
        from google.protobuf import descriptor_pb2

        proto = descriptor_pb2.FileDescriptorProto()
        self.CopyToProto(proto)
        return proto.SerializeToString()

    def CopyToProto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:  # noqa: N802
        commented = _commented_files().get(self.name)
        if commented is None:
            self._file.CopyToProto(proto)
        else:
            proto.CopyFrom(commented)


class SeveralPools:
    """The part of a DescriptorPool that reflection uses, of several: the first to know wins."""

    def __init__(self, pools: Sequence[Any]) -> None:
        self._pools = pools

    def FindFileByName(self, name: str) -> _CommentedFile:  # noqa: N802
        return _CommentedFile(self._first("FindFileByName", name))

    def FindFileContainingSymbol(self, symbol: str) -> _CommentedFile:  # noqa: N802
        try:
            return _CommentedFile(self._first("FindFileContainingSymbol", symbol))
        except KeyError:
            # Some pools know their methods, and some do not.
            name, _, method = symbol.rpartition(".")
            service = self._first("FindServiceByName", name)
            if method not in service.methods_by_name:
                raise
            return _CommentedFile(service.file)

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802
        return self._first("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802
        return message.file.pool.FindAllExtensions(message)

    def _first(self, look: str, name: str) -> Any:
        for pool in self._pools:
            try:
                return getattr(pool, look)(name)
            except KeyError:
                continue
        raise KeyError(name)
