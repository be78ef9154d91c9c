"""Settings of an aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.roster import Endpoint
from trillium.config import (
    ConfigError,
    Setting,
    address,
    front,
    nonempty,
    one_of,
    read,
    seconds,
    whole_number,
)

MIB = 1024 * 1024
PROGRAM = "aggregator"


def endpoint(text: str) -> Endpoint:
    """Parses `class=address`."""
    label, equals, where = text.partition("=")
    if not equals or not label:
        raise ValueError("class=host:port or class=unix:/path is wanted")
    return Endpoint(label, address(where))


SETTINGS = (
    Setting("listen", address, "127.0.0.1:50051", "where to listen; port 0 takes any"),
    Setting(
        "front", front, "grpc", "the server that carries gRPC: grpc, or h2corn, which is faster"
    ),
    Setting(
        "predictors",
        endpoint,
        (),
        "a class and where its predictor is; repeat it for each class, in the order that settles "
        "ties, and for each further predictor of a class; a host name stands for a predictor at "
        "each of its addresses",
        repeatable=True,
        metavar="CLASS=ADDRESS",
        flag="--predictor",
    ),
    Setting(
        "controller",
        address,
        None,
        "a controller whose predictors are asked, beside or instead of those named",
        metavar="ADDRESS",
    ),
    Setting(
        "workers",
        whole_number(1, 64),
        1,
        "processes that share the port; each has its own queues, connections and statistics",
    ),
    Setting(
        "shares_port",
        one_of("yes", "no"),
        "no",
        "whether other processes of the same user may listen on the port, too; they share its "
        "calls",
    ),
    Setting(
        "resolve_interval_s",
        seconds(0.1, 3600),
        10.0,
        "how often the host names of predictors are looked up again, beside soon after each loss",
    ),
    Setting("ensemble", nonempty, "", "the ensemble that every model must be of"),
    Setting("max_rows", whole_number(1, 65536), 10_000, "most rows in one request"),
    Setting("max_message_bytes", whole_number(1024, 2**29), 16 * MIB, "largest request message"),
    Setting(
        "max_batch_rows", whole_number(1, 65536), 4096, "most rows sent to a predictor at once"
    ),
    Setting("max_queued_rows", whole_number(1, 2**24), 65536, "most rows that wait for a class"),
    Setting("default_timeout_s", seconds(0.001, 3600), 10.0, "time of calls without a deadline"),
    Setting("drain_s", seconds(0, 3600), 10.0, "how long a stop waits for calls in flight"),
    Setting("parent_pid", whole_number(1, 2**31), None, "stop when this parent process dies"),
    Setting("log_level", one_of("debug", "info", "warning", "error"), "info", "what to log from"),
)


@dataclass(frozen=True, slots=True)
class AggregatorConfig:
    """Everything that an aggregator is told."""

    predictors: tuple[Endpoint, ...]
    """The order of the classes is the metadata order."""
    listen: str = "127.0.0.1:50051"
    controller: str | None = None
    workers: int = 1
    shares_port: str = "no"
    resolve_interval_s: float = 10.0
    ensemble: str = ""
    max_rows: int = 10_000
    max_message_bytes: int = 16 * MIB
    max_batch_rows: int = 4096
    max_queued_rows: int = 65536
    default_timeout_s: float = 10.0
    front: str = "grpc"
    drain_s: float = 10.0
    parent_pid: int | None = None
    log_level: str = "info"


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> AggregatorConfig:
    """The config that flags and environment make; raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Ask every class's predictor at once and answer probabilities and label.",
    )
    given: tuple[Endpoint, ...] = values["predictors"]
    problems = []
    if not given and values["controller"] is None:
        text = "give --predictor CLASS=ADDRESS for each class, or --controller ADDRESS"
        problems.append(f"--predictor is missing: {text}")
    problems += [
        f"--predictor={each.class_label}={each.address}: is given more than once"
        for each in dict.fromkeys(given)
        if given.count(each) > 1
    ]
    if values["workers"] > 1 and values["listen"].startswith("unix:"):
        text = "workers can share a TCP port only; give host:port or one worker"
        problems.append(f"--listen={values['listen']}: {text}")
    if problems:
        raise ConfigError(problems)
    return AggregatorConfig(**values)
