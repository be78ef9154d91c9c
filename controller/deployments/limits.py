"""What one predictor may use, and how many there may be: checks of requests."""

from __future__ import annotations

from collections.abc import Iterator

from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.errors import Violation

MAX_REPLICAS = 64
MIN_CPUS, MAX_CPUS = 0.1, 64
MIN_MEMORY_BYTES = 64 * 1024 * 1024


def check_replicas(count: int, field: str = "replica_count") -> Iterator[Violation]:
    """What is wrong with a number of predictors."""
    if not 1 <= count <= MAX_REPLICAS:
        yield Violation(field, f"is {count}; expected 1 to {MAX_REPLICAS}")


def check_limits(limits: deployment_pb.Limits, field: str = "limits") -> Iterator[Violation]:
    """What is wrong with the limits of a predictor."""
    if limits.HasField("cpus") and not MIN_CPUS <= limits.cpus <= MAX_CPUS:
        text = f"is {limits.cpus:g}; expected {MIN_CPUS:g} to {MAX_CPUS:g}"
        yield Violation(f"{field}.cpus", text)
    if limits.HasField("memory_bytes") and not limits.memory_bytes >= MIN_MEMORY_BYTES:
        text = f"is {limits.memory_bytes}; expected at least {MIN_MEMORY_BYTES}"
        yield Violation(f"{field}.memory_bytes", text)
