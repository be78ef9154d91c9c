"""uvicorn's HTTP protocol, with the host of absolute request targets and a time limit for heads."""

from __future__ import annotations

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
"""Maximum time from a connection, or from the first byte of a further request, to the end of the
head. uvicorn has none: whoever sends a byte a minute would keep a connection for good."""


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 in which the host of an absolute request target replaces the header `host` (RFC
    9112, section 3.2.2), and which closes connections whose head does not come in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_has_come()
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

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_has_come(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
