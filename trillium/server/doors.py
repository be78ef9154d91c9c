"""The door of a server, from its settings."""

from __future__ import annotations

import logging

from trillium.access.door import Door
from trillium.access.local import is_loopback
from trillium.access.roles import Role
from trillium.access.tokens import TokenFile, TokensError
from trillium.server.config import GrpcServerConfig, ServerConfig
from trillium.server.process import StartFailed

log = logging.getLogger(__name__)


def door_of(config: GrpcServerConfig, listen: str) -> Door:
    """Who may call the server with these settings, which is to listen on that address.

    Raises StartFailed for a file of tokens that cannot be read, and for an address that other
    machines may reach, unless the settings allow that.
    """
    check_reach(config, listen)
    tokens = None if config.tokens is None else TokenFile(config.tokens)
    try:
        if tokens is not None:
            tokens.check()
    except TokensError as error:
        raise StartFailed(f"{error}; check --tokens") from error
    local_users = config.local_users == "yes"
    return Door(anonymous=Role(config.anonymous), tokens=tokens, local_users=local_users)


def check_reach(config: ServerConfig, listen: str, *, has_tls: bool = True) -> None:
    """Raises StartFailed for an address that other machines may reach in plaintext, unless the
    settings allow that; it is logged then. `has_tls`: whether TLS is spoken if they name a
    certificate."""
    if has_tls and config.tls_cert is not None:
        return
    host = listen.rpartition(":")[0].strip("[]")
    if listen.startswith("unix:") or host == "localhost" or is_loopback(host):
        return
    if config.insecure != "yes":
        text = f"{listen} may be reached from other machines, and all traffic is plaintext"
        fix = "listen on 127.0.0.1, give --tls-cert and --tls-key, or set --insecure yes"
        raise StartFailed(f"{text}; {fix}")
    log.warning("other machines may reach this, and all traffic is plaintext", extra={"at": listen})
