"""`/docs` and `/openapi.json`: what the gateway serves, told by itself and without the internet."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from starlette.responses import Response

from gateway.openapi import document
from gateway.operation import Asked, Operation, Promise, json_response
from gateway.problems import HttpError
from trillium import __version__
from trillium.errors import Code

TAG = "Documents"
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
# The page is all of our own, and may fetch from here only.
_POLICY = {
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_ABOUT = (
    "Trillium's ensembles, deployments and runs over HTTP. Errors are `application/problem+json`; "
    "`reason` is stable. gRPC codes become the statuses that google.rpc.Code documents. Numbers "
    "are finite, and JSON is taken as its standard has it: no NaN, no key twice."
)


class Documents:
    """Tells of `operations`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._document = json_response(
            document(operations, title="Trillium", version=__version__, about=_ABOUT)
        )

    def operations(self) -> Sequence[Operation]:
        found = (
            ("/openapi.json", "The OpenAPI document", self._openapi),
            ("/docs", "A page that shows it", self._page),
            ("/docs/{asset}", "A file of the page", self._asset),
        )
        return [
            Operation("GET", path, TAG, summary, handler, (Promise(200, summary),), hidden=True)
            for path, summary, handler in found
        ]

    async def _openapi(self, asked: Asked) -> Response:
        return self._document

    async def _page(self, asked: Asked) -> Response:
        return _file("page.html")

    async def _asset(self, asked: Asked) -> Response:
        name = asked.path["asset"]
        if name not in ("page.css", "page.js"):
            raise HttpError(404, Code.NOT_FOUND, "NO_SUCH_PATH", f"the page has no {name!r}")
        return _file(name)


def _file(name: str) -> Response:
    content = (resources.files("gateway") / "page" / name).read_bytes()
    return Response(content, headers=_POLICY, media_type=_TYPES[name.rpartition(".")[2]])
