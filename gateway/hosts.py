"""Whom a request is for: hosts that are not the gateway's, and pages of other sites, get nothing.

A browser takes a page's name to whatever address the name's owner says, 127.0.0.1 too: such a page
could use a gateway that heeds no names as if it were its own (DNS rebinding). Nobody but the user
can make a browser ask for a numeric address of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway.config import ALLOWED_HOST, host_name
from gateway.problems import HttpError
from trillium.errors import Code

_PORT = re.compile(r":[0-9]{0,5}$")
_CLOSE = {"connection": "close"}


class Hosts:
    """The names that a gateway goes by."""

    def __init__(self, listen: str, more: Collection[str] = ()) -> None:
        """`listen` is where the gateway listens; `more` are further names, as `host_name` makes
        them.

        A gateway on loopback or on a path is `localhost` and every loopback address. One on all
        addresses is `localhost` and every address, since it does not know which lead to it.
        """
        self._names = frozenset(more)
        own = "localhost" if listen.startswith("unix:") else host_name(listen.rpartition(":")[0])
        self._every = own in ("0.0.0.0", "::")
        self._loopback = self._every or own == "localhost" or _is_loopback(own)
        self._names |= {"localhost", own} if self._loopback else {own}

    def check(self, method: str, headers: Headers) -> None:
        """Raises HttpError unless a request is for this gateway, and not from a foreign page."""
        given = headers.getlist("host")
        if len(given) != 1:
            text = f"header host: expected it once, got it {len(given)} times"
            raise HttpError(421, Code.PERMISSION_DENIED, "HOST_NOT_ALLOWED", text, _CLOSE)
        if not self._allows(given[0]):
            text = f"header host: {given[0][:80]!r} is no name of this gateway"
            mend = f"{ALLOWED_HOST} and TRILLIUM_GATEWAY_ALLOWED_HOSTS allow further names"
            denied = f"{text}: expected {self._expected()}; {mend}"
            raise HttpError(421, Code.PERMISSION_DENIED, "HOST_NOT_ALLOWED", denied, _CLOSE)
        for origin in headers.getlist("origin"):
            self._check_origin(method, origin, given[0])

    def _check_origin(self, method: str, origin: str, host: str) -> None:
        """Pages of other sites may change nothing, and what they would read is refused, too."""
        netloc = _netloc(origin)
        if method in ("GET", "HEAD"):
            allowed = origin == "null" or self._allows(netloc)
        else:
            allowed = netloc.lower() == host.lower()
        if not allowed:
            shown = repr(origin[:80])
            text = f"a page of {shown} may not use this; call it from its own pages or programs"
            raise HttpError(403, Code.PERMISSION_DENIED, "CROSS_ORIGIN", text, _CLOSE)

    def _allows(self, authority: str) -> bool:
        """Whether `host` or `host:port` is this gateway's. Ports are mapped on the way: any will
        do, and a foreign page gains nothing by them."""
        try:
            name = host_name(_PORT.sub("", authority))
        except ValueError:
            return False
        return name in self._names or (self._loopback and self._is_safe_address(name))

    def _is_safe_address(self, name: str) -> bool:
        try:
            ip_address(name)
        except ValueError:
            return False
        return self._every or _is_loopback(name)

    def _expected(self) -> str:
        named = ", ".join(sorted(self._names - {"0.0.0.0", "::"}))
        return f"{named} or an IP address" if self._every else named


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
