"""What a controller reports to Prometheus about its deployments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from trillium.server.figures import SECONDS, Distribution, Family, Measure

from .deployments.document import Deployment

DEPLOYMENTS = Measure(
    "trillium_deployments", "gauge", "How many deployments are in which state?", ("state",)
)
INSTANCES = Measure(
    "trillium_instances", "gauge", "How many predictors are in which phase?", ("phase",)
)
RECONCILE_SECONDS = Measure(
    "trillium_reconcile_seconds",
    "histogram",
    "How long do the actions take that make deployments what they should be, and do they fail?",
    ("action", "outcome"),
)
ENDPOINTS = Measure(
    "trillium_endpoints", "gauge", "How many predictors are published to aggregators?"
)
FAILING_TASKS = Measure(
    "trillium_failing_tasks",
    "gauge",
    "Which background tasks keep failing? While there is one, health is NOT_SERVING.",
    ("task",),
)
MEASURES = (DEPLOYMENTS, INSTANCES, RECONCILE_SECONDS, ENDPOINTS, FAILING_TASKS)


class ReconcileFigures:
    """The actions of the reconciler."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], Distribution] = {}

    def acted(self, action: str, outcome: str, seconds: float) -> None:
        """An action has ended."""
        key = (action, outcome)
        if key not in self._seconds:
            self._seconds[key] = Distribution(SECONDS)
        self._seconds[key].add(seconds)

    def family(self) -> Family:
        """All of them."""
        return RECONCILE_SECONDS.of(self._seconds)


def families(
    live: Iterable[Deployment],
    reconciler: ReconcileFigures,
    *,
    endpoints: int,
    failing: Iterable[str],
) -> Iterator[Family]:
    """The figures of a controller; `live` are the deployments that are not terminated."""
    states: Counter[tuple[str, ...]] = Counter()
    phases: Counter[tuple[str, ...]] = Counter()
    for deployment in live:
        states[deployment.state.value,] += 1
        for instance in deployment.instances:
            phases[instance.phase.value,] += 1
    yield DEPLOYMENTS.of(states)
    yield INSTANCES.of(phases)
    yield reconciler.family()
    yield ENDPOINTS.of({(): endpoints})
    yield FAILING_TASKS.of({(task,): 1 for task in failing})
