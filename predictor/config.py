"""Settings of a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from predictor.artifact import Facts, column
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
PROGRAM = "predictor"


def file(text: str) -> Path:
    """Parses a path; whether there is a file is seen when it is read."""
    return Path(nonempty(text))


def folder(text: str) -> Path:
    """Parses the path of a folder that exists."""
    path = Path(nonempty(text))
    if not path.is_dir():
        raise ValueError("there is no such folder")
    return path


SETTINGS = (
    Setting("listen", address, "127.0.0.1:50061", "where to listen; port 0 takes any"),
    Setting(
        "front", front, "grpc", "the server that carries gRPC: grpc, or h2corn, which is faster"
    ),
    Setting(
        "model", file, None, "artifact to serve; without it, wait for LoadModel", metavar="FILE"
    ),
    Setting("models_dir", folder, None, "folder whose artifacts LoadModel may name", metavar="DIR"),
    Setting("class_label", nonempty, None, "the class that the model recognises"),
    Setting(
        "positive_column", column, None, "which column of the probabilities is the class: 0 or 1"
    ),
    Setting("output_name", nonempty, None, "which output of the graph holds the probabilities"),
    Setting("threads", whole_number(1, 256), 1, "threads that ONNX Runtime uses for one run"),
    Setting("max_rows", whole_number(1, 2**24), 65536, "most rows in one request"),
    Setting("max_message_bytes", whole_number(1024, 2**29), 64 * MIB, "largest request message"),
    Setting("max_model_bytes", whole_number(1, 2**31), 1024 * MIB, "largest artifact"),
    Setting("drain_s", seconds(0, 3600), 10.0, "how long a stop waits for calls in flight"),
    Setting("parent_pid", whole_number(1, 2**31), None, "stop when this parent process dies"),
    Setting("log_level", one_of("debug", "info", "warning", "error"), "info", "what to log from"),
)


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """Everything that a predictor is told."""

    listen: str = "127.0.0.1:50061"
    model: Path | None = None
    models_dir: Path | None = None
    said: Facts = field(default_factory=Facts)
    """What the command line says of the model."""
    threads: int = 1
    max_rows: int = 65536
    max_message_bytes: int = 64 * MIB
    max_model_bytes: int = 1024 * MIB
    front: str = "grpc"
    drain_s: float = 10.0
    parent_pid: int | None = None
    log_level: str = "info"


def from_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> PredictorConfig:
    """The config that flags and environment make; raises ConfigError with every problem."""
    values: dict[str, Any] = read(
        PROGRAM,
        SETTINGS,
        arguments,
        environment,
        description="Serve one binary ONNX classifier over gRPC.",
    )
    said = Facts(
        class_label=values.pop("class_label") or "",
        positive_column=values.pop("positive_column"),
        output_name=values.pop("output_name") or "",
    )
    if values["model"] is None and said != Facts():
        raise ConfigError(["--class-label, --positive-column and --output-name go with --model"])
    return PredictorConfig(said=said, **values)
