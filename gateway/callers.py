"""Who sends a request, as far as the services behind the gateway need to know.

The gateway decides nothing: it hands the caller's token on, and asks on behalf of nobody for
callers who prove nothing. It would otherwise lend them the trust that its own connections have.
"""

from __future__ import annotations

from typing import TypeAlias

from starlette.datastructures import Headers
from starlette.types import Scope

from trillium.access.door import HOW, Credentials, Door
from trillium.access.roles import Role
from trillium.errors import Code
from trillium.rpc.call import ANONYMOUS_KEY, AUTHORIZATION_KEY

from .problems import HttpError

Metadata: TypeAlias = tuple[tuple[str, str], ...]

LONGEST_AUTHORIZATION = 1024
_NOBODY: Metadata = ((ANONYMOUS_KEY, "1"),)


class Callers:
    """The callers of one gateway."""

    def __init__(self, *, local_users: bool = True) -> None:
        """`local_users`: whether the gateway's own user, and root, need no token over TCP."""
        self._door = Door(local_users=local_users)
        self._is_path = False

    def opened(self, address: str) -> None:
        """The gateway listens on this address."""
        self._is_path = address.startswith("unix:")
        self._door.opened((address,))

    def metadata(self, scope: Scope, headers: Headers) -> Metadata:
        """What calls for a request carry of its caller. Raises HttpError for a header that cannot
        be handed on."""
        given = headers.getlist(AUTHORIZATION_KEY)
        if given:
            text = given[0]
            if len(given) > 1 or len(text) > LONGEST_AUTHORIZATION or not text.isascii():
                code, reason = Code.UNAUTHENTICATED, "UNAUTHENTICATED"
                raise HttpError(
                    401, code, reason, f"the header authorization cannot be used: {HOW}"
                )
            return ((AUTHORIZATION_KEY, text),)
        principal = self._door.principal(Credentials(self._peer(scope)))
        return () if principal.role is Role.ADMIN else _NOBODY

    def _peer(self, scope: Scope) -> str:
        if self._is_path:
            return "unix:"
        host, port = scope["client"] or ("", 0)
        return f"ip:[{host}]:{port}" if ":" in host else f"ip:{host}:{port}"
