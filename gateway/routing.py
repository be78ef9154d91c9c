"""From paths to operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from gateway.edge import Served
from gateway.leaving import unless_gone
from gateway.operation import Operation
from gateway.problems import HttpError
from gateway.reading import Reader
from trillium.errors import Code


class Routes:
    """Finds the operation of a request and has it answered."""

    def __init__(self, operations: Sequence[Operation], reader: Reader) -> None:
        self._reader = reader
        by_path: dict[str, dict[str, Operation]] = {}
        for each in operations:
            by_path.setdefault(each.path, {})[each.method] = each
        # Methods are told apart here, so that a 405 names all that a path takes.
        self._plain = {path: methods for path, methods in by_path.items() if "{" not in path}
        # "{id}" would take "a1:load" for an id, so what has a verb is tried first.
        patterns = sorted(
            (path for path in by_path if "{" in path), key=lambda path: ":" not in path
        )
        self._patterns = [(Route(path, _never), by_path[path]) for path in patterns]

    async def __call__(self, scope: Scope, receive: Receive, send: Send, served: Served) -> None:
        """Answer a request. Raises TrilliumError."""
        operation = self._operation(scope)
        asked = await self._reader.read(operation, scope, receive, served.request_id, served.traced)
        answering = operation.handler(asked)
        response = await (answering if operation.changes else unless_gone(answering, receive))
        await response(scope, receive, send)

    def _operation(self, scope: Scope) -> Operation:
        methods = self._methods(scope)
        operation = methods.get(scope["method"])
        if operation is None:
            allowed = ", ".join(sorted(methods))
            text = f"{scope['method'][:20]} is not for this path; {allowed} is"
            code = Code.UNIMPLEMENTED
            raise HttpError(405, code, "METHOD_NOT_ALLOWED", text, {"allow": allowed})
        return operation

    def _methods(self, scope: Scope) -> Mapping[str, Operation]:
        scope["path_params"] = {}
        found = self._plain.get(scope["path"])
        if found is not None:
            return found
        for route, methods in self._patterns:
            match, child = route.matches(scope)
            if match is not Match.NONE:
                scope.update(child)
                return methods
        text = f"there is nothing at {scope['path'][:200]!r}; /docs shows what there is"
        raise HttpError(404, Code.NOT_FOUND, "NO_SUCH_PATH", text)


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("routes are matched, not called")
