"""Where a client finds the token that identifies it to servers."""

from __future__ import annotations

import os
from pathlib import Path

from trillium.access.tokens import LONGEST_TOKEN, TokensError, read_token

TOKEN_FILE = "TRILLIUM_TOKEN_FILE"
"""The environment variable with the path of a file that holds a token."""


def token_of(given: str) -> str:
    """The token that a client's calls carry: the one given, or the one in the file that the
    environment names; empty for none. Raises ValueError for one that cannot travel."""
    path = os.environ.get(TOKEN_FILE, "")
    try:
        token = given or (read_token(Path(path)) if path else "")
    except TokensError as error:
        raise ValueError(f"{TOKEN_FILE}: {error}") from error
    if token and not (token.isascii() and token.isprintable() and len(token) <= LONGEST_TOKEN):
        raise ValueError(f"token must have at most {LONGEST_TOKEN} characters of printable ASCII")
    return token
