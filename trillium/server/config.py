"""Settings from the command line and the environment, with every problem reported at once.

A service declares its settings as the fields of a frozen dataclass, each made by `setting`. A flag
wins over the environment, which wins over the default.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from trillium.access.roles import Role
from trillium.server import programs

N = TypeVar("N", int, float)

_SETTING = "setting"
_SCHEME_END = "://"


class ConfigError(Exception):
    """Settings that cannot be used. `problems` holds one sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that a person may set."""

    name: str
    """As in the code and, with dashes, as the flag: `drain_s` is `--drain-s`."""
    parse: Callable[[str], Any]
    """Turns the text into the value; raises ValueError with what is allowed."""
    default: Any
    help: str
    repeatable: bool = False
    """The flag may be given several times, the variable holds a comma-separated list or a JSON list
    of texts, and the value is a tuple."""
    metavar: str = "VALUE"
    flag: str = ""
    """Only if it is not made of the name."""

    @property
    def option(self) -> str:
        """The flag as a person types it."""
        return self.flag or "--" + self.name.replace("_", "-")


def setting(
    parse: Callable[[str], Any],
    default: Any,
    help: str,
    *,
    repeatable: bool = False,
    metavar: str = "VALUE",
    flag: str = "",
) -> Any:
    """A field of a config that a person may set; the parameters are those of `Setting`."""
    made = Setting("", parse, default, help, repeatable, metavar, flag)
    return field(default=default, metadata={_SETTING: made})


def settings_of(config: type) -> tuple[Setting, ...]:
    """The settings among the fields of a config, those of every server last."""
    shared = {each.name for each in fields(GrpcServerConfig)}
    return tuple(
        replace(each.metadata[_SETTING], name=each.name)
        for each in sorted(fields(config), key=lambda each: each.name in shared)
        if _SETTING in each.metadata
    )


def read(
    program: str,
    settings: Sequence[Setting],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    description: str = "",
) -> dict[str, Any]:
    """The value of every setting by name.

    The variable of setting `drain_s` of program `predictor` is `TRILLIUM_PREDICTOR_DRAIN_S`.
    Raises ConfigError with every value that does not parse. Unknown flags and `--help` end the
    program, as argparse does.
    """
    given = vars(_parser(program, settings, description).parse_args(arguments))
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in settings:
        variable = variable_of(program, setting)
        texts, source = given[setting.name], setting.option
        if texts is None and environment.get(variable, "") != "":
            text = environment[variable]
            texts, source = (_parts(text) if setting.repeatable else [text]), variable
        if texts is None:
            values[setting.name] = setting.default
            continue
        parsed = []
        for text in texts:
            try:
                parsed.append(setting.parse(text.strip()))
            except ValueError as error:
                problems.append(f"{source}={text}: {error}")
        if parsed:
            values[setting.name] = tuple(parsed) if setting.repeatable else parsed[-1]
    if problems:
        raise ConfigError(problems)
    return values


def _parts(text: str) -> list[str]:
    """The values of a variable: a JSON list of texts, or texts with commas between them."""
    if text.startswith("["):
        try:
            values = json.loads(text)
        except ValueError:
            pass  # An IPv6 address begins so, too.
        else:
            if isinstance(values, list) and all(isinstance(each, str) for each in values):
                return values
    return text.split(",")


def variable_of(program: str, setting: Setting) -> str:
    """Name of the environment variable of a setting."""
    return f"TRILLIUM_{program}_{setting.name}".upper()


def _parser(program: str, settings: Sequence[Setting], text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {programs.module(program)}", description=text)
    for setting in settings:
        default = "" if setting.default in (None, ()) else f" (default {setting.default})"
        parser.add_argument(
            setting.option,
            dest=setting.name,
            action="append",
            metavar=setting.metavar,
            help=f"{setting.help}{default}; environment: {variable_of(program, setting)}",
        )
    return parser


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`."""
    return _number(int, least, most, f"expected a whole number from {least} to {most}")


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A parser of durations in seconds from `least` to `most`."""
    return _number(float, least, most, f"expected a number of seconds from {least:g} to {most:g}")


def share(text: str) -> float:
    """Parses a share, from 0 to 1."""
    return _number(float, 0.0, 1.0, "expected a number from 0 to 1")(text)


def _number(kind: Callable[[str], N], least: N, most: N, allowed: str) -> Callable[[str], N]:
    def parse(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(allowed) from None
        if not least <= value <= most:
            raise ValueError(allowed)
        return value

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """A parser that takes one of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text.lower()

    return parse


def nonempty(text: str) -> str:
    """Parses any text but the empty one."""
    if not text:
        raise ValueError("must not be empty")
    return text


def file(text: str) -> Path:
    """Parses a path; a missing file is reported when it is read."""
    return Path(nonempty(text))


def folder(text: str) -> Path:
    """Parses the path of a folder that exists."""
    path = Path(nonempty(text))
    if not path.is_dir():
        raise ValueError("there is no such folder")
    return path


def address(text: str) -> str:
    """Parses `host:port`, `[ipv6]:port` or `unix:/path`."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError("expected a path after unix:")
        return text
    scheme, has_scheme, rest = text.partition(_SCHEME_END)
    if not has_scheme and text.startswith(("dns:", "ipv4:", "ipv6:")) and text.count(":") > 1:
        scheme, has_scheme, rest = text.partition(":")
    if has_scheme:
        bare = rest.strip("/") or "host:port"
        raise ValueError(f"an address has no scheme such as {scheme}: expected {bare!r} alone")
    host, colon, port = text.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) is not None and int(port) <= 65535
    if not colon or not host or not is_port:
        raise ValueError("expected host:port or unix:/path")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address must stand in brackets, as in [::1]:50051")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What may be set of every server."""

    drain_s: float = setting(seconds(0, 3600), 10.0, "how long a stop waits for what is in flight")
    parent_pid: int | None = setting(
        whole_number(1, 2**31), None, "stop when this parent process dies"
    )
    metrics_listen: str | None = setting(
        address, None, "where to serve metrics; nowhere by default", metavar="ADDRESS"
    )
    tls_cert: Path | None = setting(
        file, None, "certificate to serve with, with its chain, in PEM", metavar="FILE"
    )
    tls_key: Path | None = setting(file, None, "key of the certificate, in PEM", metavar="FILE")
    local_users: str = setting(
        one_of("yes", "no"),
        "yes",
        "whether the user who runs this, and root, need no token on this machine; no where a proxy "
        "of theirs lets others in",
    )
    insecure: str = setting(
        one_of("yes", "no"),
        "no",
        "whether it may listen where other machines reach it although traffic is plaintext",
    )
    log_level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "lowest level to log"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServerConfig(ServerConfig):
    """What may be set of every gRPC server."""

    anonymous: str = setting(
        one_of(*Role),
        Role.NONE.value,
        "role of callers who prove nothing: none, infer, view, operate, service or admin; on this "
        "machine, callers of the user who runs this, and root, are admin",
        metavar="ROLE",
    )
    tokens: Path | None = setting(
        file,
        None,
        "file of the tokens that callers may bring, see `trillium token`",
        metavar="FILE",
    )
