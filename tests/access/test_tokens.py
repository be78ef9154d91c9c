"""Tokens: made once, known by their digest, gone when revoked or expired."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trillium.access.roles import Role
from trillium.access.tokens import PREFIX, TokenFile, TokensError, digest_of, read_token

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "tokens.json"


def test_a_token_is_found_by_every_reader_of_its_file(path: Path) -> None:
    reader = TokenFile(path)
    assert reader.find("trillium_x", NOW) is None
    token = TokenFile(path).create("laptop", Role.INFER, now=NOW)
    found = reader.find(token, NOW)
    assert found is not None
    assert (found.name, found.role, found.created) == ("laptop", Role.INFER, NOW.isoformat())


def test_tokens_differ_and_have_256_random_bits(path: Path) -> None:
    file = TokenFile(path)
    made = {file.create(f"t{number}", Role.VIEW, now=NOW) for number in range(50)}
    assert len(made) == 50
    assert {len(each.removeprefix(PREFIX)) for each in made} == {43}


def test_the_file_has_no_token_and_is_its_owners_alone(path: Path) -> None:
    token = TokenFile(path).create("laptop", Role.ADMIN, now=NOW)
    text = path.read_text()
    assert token not in text
    assert token.removeprefix(PREFIX) not in text
    assert digest_of(token) in text
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_a_token_expires(path: Path) -> None:
    file = TokenFile(path)
    token = file.create("laptop", Role.INFER, now=NOW, lives=timedelta(hours=1))
    assert file.find(token, NOW + timedelta(minutes=59)) is not None
    assert file.find(token, NOW + timedelta(hours=1)) is None


def test_a_revoked_token_is_none_with_the_next_call(path: Path) -> None:
    server = TokenFile(path)
    kept, revoked = (server.create(name, Role.INFER, now=NOW) for name in ("kept", "gone"))
    assert server.find(revoked, NOW) is not None
    TokenFile(path).revoke("gone")
    assert server.find(revoked, NOW) is None
    assert server.find(kept, NOW) is not None
    with pytest.raises(TokensError, match="there is no token 'gone'; there are: kept"):
        server.revoke("gone")


def test_one_name_is_one_token(path: Path) -> None:
    file = TokenFile(path)
    file.create("laptop", Role.INFER, now=NOW)
    with pytest.raises(TokensError, match="there is a token 'laptop'"):
        file.create("laptop", Role.ADMIN, now=NOW)


@pytest.mark.parametrize("name", ["", "Laptop", "a b", "-a", "a\n", "a" * 64, "../a"])
def test_names_that_a_log_cannot_hold_are_refused(path: Path, name: str) -> None:
    with pytest.raises(TokensError, match="expected 1 to 63 lower-case letters"):
        TokenFile(path).create(name, Role.INFER, now=NOW)


async def test_tokens_that_are_made_at_once_are_all_kept(path: Path) -> None:
    def make(number: int) -> str:
        return TokenFile(path).create(f"t{number}", Role.INFER, now=NOW)

    tokens = await asyncio.gather(*(asyncio.to_thread(make, each) for each in range(20)))
    assert all(TokenFile(path).find(each, NOW) for each in tokens)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"tokens": [{"name": "a"}]}',
        b'{"tokens": ["a"]}',
        b'{"tokens": [{"name":"a","role":"king","sha256":"0","created":""}]}',
        b'{"tokens": [{"name":"a","role":"view","sha256":"0","created":"","expires":"soon"}]}',
        b'{"tokens": [{"name":"a","role":"view","sha256":"0","created":"","more":1}]}',
        b" " * 2**21,
    ],
)
def test_a_file_that_is_none_of_tokens_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(TokensError, match="is no file of tokens"):
        TokenFile(path).check()


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    token = TokenFile(path).create("laptop", Role.INFER, now=NOW)
    path.chmod(0o644)
    with pytest.raises(TokensError, match="can be read by others"):
        TokenFile(path).find(token, NOW)


def test_a_damaged_file_lets_nobody_in_and_a_mended_one_does(path: Path) -> None:
    server = TokenFile(path)
    token = server.create("laptop", Role.INFER, now=NOW)
    assert server.find(token, NOW) is not None
    whole = json.loads(path.read_text())
    path.write_text("{")
    with pytest.raises(TokensError):
        server.find(token, NOW)
    path.write_text(json.dumps(whole))
    assert server.find(token, NOW) is not None


@pytest.mark.parametrize("content", ["", "a b", "a\nb", "\u00fc", "x" * 1025])
def test_a_token_file_holds_one_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(TokensError, match="must hold one token"):
        read_token(file)
    file.write_text("trillium_a\n")
    assert read_token(file) == "trillium_a"
