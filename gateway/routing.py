"""Finds the operation for a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from trillium.errors import Code

from .edge import Served
from .leaving import unless_gone
from .operation import Operation
from .problems import HttpError
from .reading import Reader


class Routes:
    """Dispatches requests to operations."""

    def __init__(self, operations: Sequence[Operation], reader: Reader) -> None:
        self._reader = reader
        by_path: dict[str, dict[str, Operation]] = {}
        for each in operations:
            by_path.setdefault(each.path, {})[each.method] = each
        # Grouped by path, so that a 405 names all methods of a path.
        self._plain = {path: methods for path, methods in by_path.items() if "{" not in path}
        # "{id}" also matches "a1:load", and "{model}" also "iris/ready": the longer path is first.
        patterns = sorted(
            (path for path in by_path if "{" in path),
            key=lambda path: (":" not in path, -path.count("/")),
        )
        # A class label may hold a slash, and clients of the protocol send it as it is.
        self._patterns = [
            (Route(path.replace("{model}", "{model:path}"), _never), by_path[path])
            for path in patterns
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send, served: Served) -> None:
        """Answer a request. Raises TrilliumError."""
        operation = self._operation(scope)
        served.route = operation.path
        with self._reader.holding() as held:
            http = await self._reader.read(
                operation, scope, receive, served.request_id, served.traced, held
            )
            work = operation.handler(http)
            response = await (work if operation.changes else unless_gone(work, receive))
            del http, work
        await response(scope, receive, send)

    def _operation(self, scope: Scope) -> Operation:
        methods = self._methods(scope)
        operation = methods.get(scope["method"])
        if operation is None:
            allowed = ", ".join(sorted(methods))
            text = f"method is {scope['method'][:20]}; expected {allowed}"
            code = Code.UNIMPLEMENTED
            raise HttpError(405, code, "METHOD_NOT_ALLOWED", text, {"allow": allowed})
        return operation

    def _methods(self, scope: Scope) -> Mapping[str, Operation]:
        scope["path_params"] = {}
        methods = self._plain.get(scope["path"])
        if methods is not None:
            return methods
        for route, methods in self._patterns:
            match, child = route.matches(scope)
            if match is not Match.NONE:
                scope.update(child)
                return methods
        text = f"path {scope['path'][:200]!r} does not exist; see /docs for all paths"
        raise HttpError(404, Code.NOT_FOUND, "NO_SUCH_PATH", text)


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("routes are matched, not called")
