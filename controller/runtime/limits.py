"""What a container's limits may be, whoever enforces them."""

from __future__ import annotations

from .port import ContainerRefused, ContainerSpec

LEAST_MEMORY_BYTES = 6 * 1024 * 1024
"""The least that a container engine gives. A predictor needs some ten times as much."""
LEAST_CPUS = 0.01


def check_limits(spec: ContainerSpec) -> None:
    """Raises ContainerRefused for limits that no runtime can give.

    An engine would take zero to mean "no limit", which is the opposite of what it means.
    """
    if spec.cpus is not None and not spec.cpus >= LEAST_CPUS:
        raise ContainerRefused(f"cpus is {spec.cpus:g}; expected at least {LEAST_CPUS:g}")
    if spec.memory_bytes is not None and spec.memory_bytes < LEAST_MEMORY_BYTES:
        text = f"memory_bytes is {spec.memory_bytes}; expected at least {LEAST_MEMORY_BYTES}"
        raise ContainerRefused(text)
