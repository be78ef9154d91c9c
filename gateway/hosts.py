"""Refuses requests for hosts that are not the gateway's, and requests from pages of other sites.

The owner of a host name can point it at any address, including 127.0.0.1. A page under such a name
could then use a gateway that does not check names as its own origin (DNS rebinding). A numeric
address cannot be redirected in this way.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from trillium.errors import Code

from .config import ALLOWED_HOST, host_name
from .problems import HttpError

_PORT = re.compile(r":[0-9]{0,5}$")
_CLOSE = {"connection": "close"}


class Hosts:
    """The host names of a gateway."""

    def __init__(self, listen: str, more: Collection[str] = ()) -> None:
        """`listen` is the gateway's address; `more` are additional names in the form of
        `host_name`.

        On loopback or on a path, the names are `localhost` and every loopback address. On all
        addresses, they are `localhost` and every address, since any of them may lead here.
        """
        self._names = frozenset(more)
        own = "localhost" if listen.startswith("unix:") else host_name(listen.rpartition(":")[0])
        self._every = own in ("0.0.0.0", "::")
        self._loopback = self._every or own == "localhost" or _is_loopback(own)
        self._names |= {"localhost", own} if self._loopback else {own}

    def check(self, method: str, headers: Headers) -> None:
        """Raises HttpError if a request is for another host, or from a page of another site."""
        given = headers.getlist("host")
        if len(given) != 1:
            text = f"header host: expected it once, got it {len(given)} times"
            raise HttpError(421, Code.PERMISSION_DENIED, "HOST_NOT_ALLOWED", text, _CLOSE)
        if not self._allows(given[0]):
            text = f"header host: {given[0][:80]!r} is not a name of this gateway"
            fix = f"add names with {ALLOWED_HOST} or TRILLIUM_GATEWAY_ALLOWED_HOSTS"
            denied = f"{text}: expected {self._expected()}; {fix}"
            raise HttpError(421, Code.PERMISSION_DENIED, "HOST_NOT_ALLOWED", denied, _CLOSE)
        for origin in headers.getlist("origin"):
            self._check_origin(method, origin, given[0])

    def _check_origin(self, method: str, origin: str, host: str) -> None:
        """Raises HttpError for a page of another site, for reads as well as for changes."""
        netloc = _netloc(origin)
        if method in ("GET", "HEAD"):
            allowed = origin == "null" or self._allows(netloc)
        else:
            allowed = netloc.lower() == host.lower()
        if not allowed:
            shown = repr(origin[:80])
            text = f"a page of {shown} may not use this API; use its own pages or a program"
            raise HttpError(403, Code.PERMISSION_DENIED, "CROSS_ORIGIN", text, _CLOSE)

    def _allows(self, authority: str) -> bool:
        """Whether `host` or `host:port` is this gateway's. Any port is allowed: ports may be mapped
        on the way, and another port gives a page of another site nothing."""
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
