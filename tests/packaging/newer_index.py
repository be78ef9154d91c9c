"""A package index in which every package has a release that is newer than all others.

It stands before the index that the person's pip uses and adds one link to each page that it hands
on. What the link leads to is never sent; that somebody asked for it is noted.
"""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

NEWEST = "9999.0"
_FETCH_S = 60.0
_AS_HTML = "application/vnd.pypi.simple.v1+html, text/html;q=0.5"


@dataclass(slots=True)
class NewerIndex:
    """The index while it serves."""

    url: str
    """Of the simple index, as pip and uv take it."""
    pages: set[str] = field(default_factory=set)
    """Names of the packages whose pages were handed out with a newer release."""
    asked_newest: list[str] = field(default_factory=list)
    """Paths of newer releases that somebody wanted to have."""


@contextmanager
def newer_index(behind: str, settings: Mapping[str, str]) -> Iterator[NewerIndex]:
    """Serve on loopback what the simple index `behind` has, and newer releases.

    `settings` are uv's variables: its certificates are those that `behind` is trusted by.
    """
    trusted = ssl.create_default_context(cafile=settings.get("SSL_CERT_FILE"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Hand on a page of the simple index with one more release, or note who wants it."""
            name = PurePosixPath(self.path).name
            if not self.path.startswith("/simple/"):
                index.asked_newest.append(self.path)
                return self._send(404, b"")
            url = f"{behind.rstrip('/')}/{name}/"
            request = urllib.request.Request(url, headers={"Accept": _AS_HTML})
            try:
                with urllib.request.urlopen(request, timeout=_FETCH_S, context=trusted) as answer:
                    page, base = answer.read().decode(), answer.url
            except urllib.error.HTTPError as error:
                return self._send(error.code, b"")
            file = f"{name.replace('-', '_')}-{NEWEST}-py3-none-any.whl"
            link = f'<a href="{index.url.removesuffix("/simple")}/newest/{file}">{file}</a>'
            page = page.replace("<head>", f'<head><base href="{base}">', 1)
            assert "</body>" in page, page[:200]
            index.pages.add(name)
            return self._send(200, page.replace("</body>", f"{link}</body>").encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: what was asked is in `index`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = NewerIndex(f"http://127.0.0.1:{server.server_address[1]}/simple")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
