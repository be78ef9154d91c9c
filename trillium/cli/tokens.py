"""`trillium token`: who may call the servers from elsewhere, and what they may do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from trillium.access.roles import Role
from trillium.access.tokens import TokenFile, TokensError
from trillium.cli.options import Json, examples, fail, new_group
from trillium.server.private import FILE_MODE

app = new_group("Make, list and revoke tokens of callers on other machines or of other users.")

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST_D = 3650

FileOption = Annotated[
    Path,
    typer.Option(
        "--tokens", help="File of tokens that the servers read.", envvar="TRILLIUM_TOKENS"
    ),
]
DEFAULT = Path(".trillium/tokens.json")


def lifetime(text: str) -> timedelta | None:
    """Parses `30d`, `12h`, `90m` or `never`, else typer.BadParameter."""
    if text == "never":
        return None
    match = re.fullmatch("([1-9][0-9]{0,6})([mhd])", text)
    found = timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else timedelta()
    if not timedelta() < found <= timedelta(days=_LONGEST_D):
        raise typer.BadParameter(f"expected a time such as 90m, 12h or 30d, or never; got {text!r}")
    return found


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except TokensError as error:
        fail(str(error))


@app.command(
    epilog=examples(
        "trillium token create laptop --role infer --expires 30d",
        "trillium token create ci --role operate --output ci.token",
    )
)
def create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    role: Annotated[
        Role, typer.Option(help="What it allows; each role includes those before it.")
    ] = Role.INFER,
    expires: Annotated[str, typer.Option(help="Its lifetime: 90m, 12h, 30d or never.")] = "90d",
    output: Annotated[
        Path | None,
        typer.Option(help="File to write it to; it must not exist.", show_default="print it"),
    ] = None,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Leave one of that name that is there as it is.")
    ] = False,
    tokens: FileOption = DEFAULT,
) -> None:
    """Make a token. It is shown this one time: the file of tokens has its SHA-256 only."""
    lives, file = lifetime(expires), TokenFile(tokens)
    with _sentences():
        if if_missing and any(each.name == name for each in file.entries()):
            return
        if if_missing and output is not None:
            output.unlink(missing_ok=True)  # Left by a start that was cut short.
        if output is None:
            print(file.create(name, role, now=datetime.now(UTC), lives=lives))
            return
        try:
            output.touch(FILE_MODE, exist_ok=False)
        except OSError as error:
            fail(f"cannot write {output}: {error.strerror}")
        try:
            output.write_text(file.create(name, role, now=datetime.now(UTC), lives=lives) + "\n")
        except TokensError:
            output.unlink()
            raise


@app.command("list", epilog=examples("trillium token list"))
def show(tokens: FileOption = DEFAULT, as_json: Json = False) -> None:
    """List the tokens: names, roles and times, never the tokens."""
    from trillium.cli.plain import PlainTable
    from trillium.cli.show import Screen

    now = datetime.now(UTC)
    with _sentences():
        entries = TokenFile(tokens).entries()
    screen = Screen()
    if as_json:
        for each in entries:
            facts = {"name": each.name, "role": each.role.value, "created": each.created}
            until = {"expires": each.expires} if each.expires else {}
            screen.json({**facts, **until, "valid": not each.has_expired(now)})
        return
    table = PlainTable()
    for heading in ("token", "role", "created", "expires", "valid"):
        table.add_column(heading, no_wrap=True)
    for each in entries:
        valid = "no" if each.has_expired(now) else "yes"
        table.add_row(each.name, each.role.value, each.created, each.expires or "never", valid)
    screen.table(table)


@app.command(epilog=examples("trillium token revoke laptop"))
def revoke(
    name: Annotated[str, typer.Argument(help="Whose it is.")], tokens: FileOption = DEFAULT
) -> None:
    """Revoke a token: the next call with it is refused."""
    with _sentences():
        TokenFile(tokens).revoke(name)
