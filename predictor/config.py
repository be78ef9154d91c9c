"""Settings of a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trillium.model.declared import DeclaredFacts, column
from trillium.server.config import (
    ConfigError,
    GrpcServerConfig,
    Setting,
    address,
    file,
    folder,
    nonempty,
    read,
    setting,
    settings_of,
    whole_number,
)

MIB = 1024 * 1024
PROGRAM = "predictor"


@dataclass(frozen=True, slots=True)
class PredictorConfig(GrpcServerConfig):
    """The settings of one predictor."""

    listen: str = setting(address, "127.0.0.1:50061", "where to listen; port 0 takes any")
    model: Path | None = setting(
        file, None, "artifact to serve; without it, wait for LoadModel", metavar="FILE"
    )
    models_dir: Path | None = setting(
        folder, None, "folder whose artifacts LoadModel may name", metavar="DIR"
    )
    declared: DeclaredFacts = field(default_factory=DeclaredFacts)
    """What the command line declares of the model."""
    threads: int = setting(whole_number(1, 256), 1, "threads that ONNX Runtime uses for one run")
    max_rows: int = setting(whole_number(1, 2**24), 65536, "most rows in one request")
    max_message_bytes: int = setting(whole_number(1024, 2**29), 64 * MIB, "largest request message")
    max_bytes_in_flight: int = setting(
        whole_number(1024, 2**40), 128 * MIB, "largest sum of the requests that are served at once"
    )
    max_model_bytes: int = setting(whole_number(1, 2**31), 1024 * MIB, "largest artifact")


SETTINGS = (
    *settings_of(PredictorConfig),
    Setting("class_label", nonempty, None, "the class that the model recognizes"),
    Setting(
        "positive_column", column, None, "which column of the probabilities is the class: 0 or 1"
    ),
    Setting("output_name", nonempty, None, "which output of the graph holds the probabilities"),
)


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> PredictorConfig:
    """The settings from flags and environment; raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Serve one binary ONNX classifier over gRPC.",
    )
    declared = DeclaredFacts(
        class_label=values.pop("class_label") or "",
        positive_column=values.pop("positive_column"),
        output_name=values.pop("output_name") or "",
    )
    if values["model"] is None and declared != DeclaredFacts():
        raise ConfigError(["--class-label, --positive-column and --output-name go with --model"])
    return PredictorConfig(declared=declared, **values)
