"""Where a client finds the token that identifies it to servers, and whom it trusts."""

from __future__ import annotations

import os
from pathlib import Path

from trillium.access.tokens import LONGEST_TOKEN, TokensError, read_token
from trillium.rpc.channels import Access

TOKEN_FILE = "TRILLIUM_TOKEN_FILE"
"""The environment variable with the path of a file that holds a token."""
TLS_CA = "TRILLIUM_TLS_CA"
"""The environment variable with the file of the authorities whose certificates are trusted."""
SYSTEM = "system"
"""In place of a file: the authorities that gRPC comes with."""
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def access_of(token: str = "", tls_ca: str = "") -> Access:
    """How a client's calls get in: as given, or else by the files that the environment names.

    Without authorities they go in plaintext. Raises ValueError for what cannot be used.
    """
    return link_access(_token(token), tls_ca or os.environ.get(TLS_CA, ""))


def link_access(token: str, tls_ca: str) -> Access:
    """How a server's own calls get in: as given, whatever the environment of its user names. Raises
    ValueError."""
    roots = None if tls_ca in ("", SYSTEM) else _roots(tls_ca)
    return Access(token, bool(tls_ca), roots)


def _token(given: str) -> str:
    path = os.environ.get(TOKEN_FILE, "")
    try:
        token = given or (read_token(Path(path)) if path else "")
    except TokensError as error:
        raise ValueError(f"{TOKEN_FILE}: {error}") from error
    if token and not (token.isascii() and token.isprintable() and len(token) <= LONGEST_TOKEN):
        raise ValueError(f"token must have at most {LONGEST_TOKEN} characters of printable ASCII")
    return token


def _roots(path: str) -> bytes:
    try:
        roots = Path(path).read_bytes()
    except OSError as error:
        text = f"cannot read the certificates of authorities in {path}: {error.strerror}"
        raise ValueError(text) from error
    # gRPC takes anything, and then trusts nobody.
    if _CERTIFICATE not in roots:
        raise ValueError(f"{path} holds no certificate in PEM")
    return roots
