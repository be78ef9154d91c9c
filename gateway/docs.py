"""`/docs` and `/openapi.json`: the documentation of the API, without anything from the internet."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from starlette.responses import Response

from trillium import __version__
from trillium.errors import Code

from .openapi import document
from .operation import HttpRequest, Operation, Promise, json_response
from .problems import HttpError

TAG = "Documents"
_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript"}
# The page loads only files of the gateway.
_POLICY = {
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_ABOUT = (
    "Trillium's ensembles, deployments and runs over HTTP. Errors are `application/problem+json`; "
    "`reason` is stable. gRPC codes map to the statuses that google.rpc.Code documents. JSON is "
    "strict: no NaN or Infinity, no duplicate keys."
)


class Documents:
    """The documentation of `operations`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._document = json_response(
            document(operations, title="Trillium", version=__version__, about=_ABOUT)
        )

    def operations(self) -> Sequence[Operation]:
        found = (
            ("/openapi.json", "The OpenAPI document", self._openapi),
            ("/docs", "A page that shows the document", self._page),
            ("/docs/{asset}", "A file of the page", self._asset),
        )
        return [
            Operation("GET", path, TAG, summary, handler, (Promise(200, summary),), hidden=True)
            for path, summary, handler in found
        ]

    async def _openapi(self, http: HttpRequest) -> Response:
        return self._document

    async def _page(self, http: HttpRequest) -> Response:
        return _file("page.html")

    async def _asset(self, http: HttpRequest) -> Response:
        name = http.path["asset"]
        if name not in ("page.css", "page.js"):
            raise HttpError(404, Code.NOT_FOUND, "NO_SUCH_PATH", f"the page has no {name!r}")
        return _file(name)


def _file(name: str) -> Response:
    content = (resources.files(__package__) / "page" / name).read_bytes()
    return Response(content, headers=_POLICY, media_type=_TYPES[name.rpartition(".")[2]])
