"""Settings from the command line and the environment, with every problem told at once.

A service declares its settings as a tuple of `Setting` and turns the values into a frozen object
of its own. A flag wins over the environment, which wins over the default.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
    """The flag may be given several times, the variable holds a comma-separated list, and the
    value is a tuple."""
    metavar: str = "VALUE"
    flag: str = ""
    """Only if it is not made of the name."""

    @property
    def option(self) -> str:
        """The flag as a person types it."""
        return self.flag or "--" + self.name.replace("_", "-")


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
            texts, source = (text.split(",") if setting.repeatable else [text]), variable
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


def variable_of(program: str, setting: Setting) -> str:
    """Name of the environment variable of a setting."""
    return f"TRILLIUM_{program}_{setting.name}".upper()


def _parser(program: str, settings: Sequence[Setting], text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=text)
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

    def parse(text: str) -> int:
        allowed = f"a whole number from {least} to {most} is wanted"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(allowed) from None
        if not least <= value <= most:
            raise ValueError(allowed)
        return value

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A parser of durations in seconds from `least` to `most`."""

    def parse(text: str) -> float:
        allowed = f"a number of seconds from {least:g} to {most:g} is wanted"
        try:
            value = float(text)
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
            raise ValueError(f"one of {', '.join(words)} is wanted")
        return text.lower()

    return parse


def front(text: str) -> str:
    """Parses the name of the server that carries gRPC; what is not installed is none."""
    name = one_of("grpc", "h2corn")(text)
    if name == "h2corn" and importlib.util.find_spec("h2corn") is None:
        raise ValueError("h2corn is not installed: pip install 'h2corn>=2.0,<3'")
    return name


def nonempty(text: str) -> str:
    """Parses any text but the empty one."""
    if not text:
        raise ValueError("must not be empty")
    return text


def address(text: str) -> str:
    """Parses `host:port`, `[ipv6]:port` or `unix:/path`."""
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise ValueError("a path is wanted after unix:")
        return text
    host, colon, port = text.rpartition(":")
    is_port = re.fullmatch("[0-9]{1,5}", port) is not None and int(port) <= 65535
    if not colon or not host or not is_port:
        raise ValueError("host:port or unix:/path is wanted")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("an IPv6 address must stand in brackets, as in [::1]:50051")
    return text
