"""Settings of an aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trillium.server.config import (
    ConfigError,
    GrpcServerConfig,
    address,
    file,
    nonempty,
    one_of,
    read,
    seconds,
    setting,
    settings_of,
    share,
    whole_number,
)

from .plans.roster import Endpoint

MIB = 1024 * 1024
PROGRAM = "aggregator"


def endpoint(text: str) -> Endpoint:
    """Parses `class=address`, where the class may have any sign, as `<=50K` has."""
    # A path may have the sign, too; a host and a port cannot.
    label, equals, path = text.partition("=unix:")
    where = f"unix:{path}"
    if not equals:
        label, equals, where = text.rpartition("=")
    if not equals or not label:
        raise ValueError("expected class=host:port or class=unix:/path")
    return Endpoint(label, address(where))


@dataclass(frozen=True, slots=True)
class AggregatorConfig(GrpcServerConfig):
    """All settings of an aggregator."""

    predictors: tuple[Endpoint, ...] = setting(
        endpoint,
        (),
        "a class and where its predictor is; repeat it for each class, in the order that settles "
        "ties, and for each further predictor of a class; a host name stands for a predictor at "
        "each of its addresses",
        repeatable=True,
        metavar="CLASS=ADDRESS",
        flag="--predictor",
    )
    """The order of the classes is the metadata order."""
    listen: str = setting(address, "127.0.0.1:50051", "where to listen; port 0 takes any")
    controller: str | None = setting(
        address,
        None,
        "a controller whose predictors are asked, in addition to or instead of those named",
        metavar="ADDRESS",
    )
    controller_token_file: Path | None = setting(
        file,
        None,
        "file with the token that the controller is asked with, of role service",
        metavar="FILE",
    )
    controller_tls_ca: str = setting(
        nonempty,
        "",
        "authorities that the controller is trusted by: a file, or system",
        metavar="FILE",
    )
    workers: int = setting(
        whole_number(1, 64),
        1,
        "processes that share the port; each has its own queues, connections and statistics",
    )
    shares_port: str = setting(
        one_of("yes", "no"),
        "no",
        "whether other processes of the same user may listen on the port, too; they share its "
        "calls",
    )
    resolve_interval_s: float = setting(
        seconds(0.1, 3600),
        10.0,
        "interval for resolving the host names of predictors again; also done soon after each loss",
    )
    ensemble: tuple[str, ...] = setting(
        nonempty,
        (),
        "an ensemble to serve; repeat it for several; without any, all that the controller knows; "
        "every model of a named predictor must be of it",
        repeatable=True,
        metavar="NAME",
    )
    max_rows: int = setting(whole_number(1, 65536), 10_000, "most rows in one request")
    max_message_bytes: int = setting(whole_number(1024, 2**29), 16 * MIB, "largest request message")
    max_bytes_in_flight: int = setting(
        whole_number(1024, 2**40), 64 * MIB, "largest sum of the requests that are served at once"
    )
    max_batch_rows: int = setting(
        whole_number(1, 65536), 4096, "most rows sent to a predictor at once"
    )
    max_queued_rows: int = setting(whole_number(1, 2**24), 65536, "most rows that wait for a class")
    hedge_share: float = setting(
        share,
        0.05,
        "largest share of the requests that are sent to a second predictor of their class when "
        "they take unusually long; 0: none",
    )
    default_timeout_s: float = setting(
        seconds(0.001, 3600), 10.0, "time of calls without a deadline"
    )


SETTINGS = settings_of(AggregatorConfig)


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
    if given and len(values["ensemble"]) > 1:
        text = "predictors that are named one by one are one ensemble; name it, or none"
        problems.append(f"--ensemble={values['ensemble'][1]}: {text}")
    if values["workers"] > 1 and values["listen"].startswith("unix:"):
        text = "workers can share a TCP port only; give host:port or one worker"
        problems.append(f"--listen={values['listen']}: {text}")
    if problems:
        raise ConfigError(problems)
    return AggregatorConfig(**values)
