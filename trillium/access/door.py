"""The one check of every call: who asks, and whether they may."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import unquote

from trillium.access import local
from trillium.access.roles import RULES, Role
from trillium.access.tokens import TokenFile, TokensError
from trillium.errors import PermissionDenied, Unauthenticated

_SCHEME = "bearer"
HOW = "send `authorization: Bearer TOKEN`; `trillium token create` makes one"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    name: str
    """`anonymous`, `uid:1000` or `token:NAME`."""
    role: Role


@dataclass(frozen=True, slots=True)
class Credentials:
    """What came with a call that identifies the caller."""

    peer: str
    """Where the call comes from, as gRPC writes it: `ipv4:127.0.0.1:40000` or `unix:`."""
    authorization: str = field(default="", repr=False)
    gives_up: bool = False
    """Whether the caller wants to be anonymous, whoever it is: a gateway asks so for its own."""


ANONYMOUS = "anonymous"
_WILDCARDS = ("0.0.0.0", "::", "localhost")


class Door:
    """The check of one server.

    A token identifies the caller, if one is sent. Otherwise the kernel does, for callers on this
    machine: the user that runs the server, and root, are `admin`. Everybody else is anonymous.
    """

    def __init__(
        self,
        *,
        anonymous: Role = Role.NONE,
        tokens: TokenFile | None = None,
        local_users: bool = True,
        rules: Mapping[str, Role] = RULES,
    ) -> None:
        """`anonymous` is the role of callers who prove nothing; `local_users`: whether the kernel's
        word on a TCP connection counts; `rules` has the role that each RPC
        needs, by its path."""
        self._anonymous = Principal(ANONYMOUS, anonymous)
        self._tokens = tokens
        self._rules = rules
        self._local_users = local_users
        self._owners = {uid: Principal(f"uid:{uid}", Role.ADMIN) for uid in {os.geteuid(), 0}}
        self._places: Sequence[local.Place] = ()

    def opened(self, addresses: Sequence[str]) -> None:
        """The server listens on these addresses, `host:port` or `unix:/path`."""
        self._places = [
            (host.strip("[]"), int(port))
            for host, _, port in (
                each.rpartition(":") for each in addresses if not each.startswith("unix:")
            )
        ]

    def admit(self, path: str, credentials: Credentials) -> Principal:
        """Who asks, if they may call the RPC of that path.

        Raises Unauthenticated for a credential that is none, and for callers without one whom the
        RPC is not open to; PermissionDenied for callers of another role.
        """
        needed = self._rules.get(path)
        if needed is None:
            raise PermissionDenied(f"{path} is open to nobody: no role allows it")
        is_open = not credentials.authorization and self._anonymous.role.includes(needed)
        if needed is Role.NONE or is_open:
            return self._anonymous  # No need to find out who it is.
        principal = self.principal(credentials)
        if principal.role.includes(needed):
            return principal
        if principal.name == ANONYMOUS:
            raise Unauthenticated(
                f"{path} needs the role {needed}, and this caller has not proved who it is: {HOW}"
            )
        text = f"{path} needs the role {needed}, and {principal.name} has {principal.role}"
        raise PermissionDenied(text)

    def principal(self, credentials: Credentials) -> Principal:
        """Who asks. Raises Unauthenticated for a credential that is none."""
        if credentials.authorization:
            return self._holder(credentials.authorization)
        if credentials.gives_up:
            return self._anonymous
        uid = self._uid(credentials.peer)
        return self._anonymous if uid is None else self._owners.get(uid, self._anonymous)

    def _holder(self, authorization: str) -> Principal:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != _SCHEME or not token.strip():
            raise Unauthenticated("authorization has another form than `Bearer TOKEN`")
        if self._tokens is None:
            raise Unauthenticated("this server knows no tokens: start it with --tokens FILE")
        try:
            found = self._tokens.find(token.strip(), datetime.now(UTC))
        except TokensError as error:
            raise Unauthenticated(f"no token can be checked: {error}") from error
        if found is None:
            raise Unauthenticated("the token is not known here, was revoked, or has expired")
        return Principal(f"token:{found.name}", found.role)

    def _uid(self, peer: str) -> int | None:
        """The user at the other end; None if the kernel proves nothing of it."""
        if peer.startswith("unix:"):
            # Servers make their sockets for their own user, and only root gets past that.
            return os.geteuid()
        caller = _loopback_place(peer)
        if caller is None or not self._local_users:
            return None
        for own_host, own_port in self._places:
            own = caller[0] if own_host in _WILDCARDS else own_host
            if (":" in own) == (":" in caller[0]):
                uid = local.owner_of(caller, (own, own_port))
                if uid is not None:
                    return uid
        return None


@lru_cache(maxsize=4096)
def _loopback_place(peer: str) -> local.Place | None:
    """The address and port of a peer on the loopback; None for any other peer."""
    host, _, port = peer.partition(":")[2].rpartition(":")
    host = unquote(host).strip("[]")
    return (host, int(port)) if port.isdecimal() and local.is_loopback(host) else None
