"""uvicorn's HTTP, but for what it leaves out of its scope."""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests for a whole URL are for the host of that URL.

    RFC 9112, section 3.2.2: the header `host` is then to be ignored.
    """

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):
            try:
                target = httptools.parse_url(self.url)
            except httptools.HttpParserInvalidURLError:
                target = None
            if target is not None and target.host:
                host = target.host if b":" not in target.host else b"[%s]" % target.host
                self.headers[:] = [each for each in self.headers if each[0] != b"host"]
                self.headers.append((b"host", host))
        super().on_headers_complete()
