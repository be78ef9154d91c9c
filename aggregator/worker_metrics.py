"""The metrics of all workers as those of one server: what they count is added up.

A worker that died takes nothing away: what it had counted when it was last asked is kept, since a
counter that falls looks like a restart of everything.
"""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

ANSWER_S = 2.0
"""How long a worker may take to answer."""
_STARTED = "process_start_time_seconds"
_LEFT_OUT = (_STARTED, "process_max_fds", "python_info")
"""What makes no sense in a sum."""

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a sample."""


@dataclass(slots=True)
class _Worker:
    """What is known of one worker, and of those that had its place before."""

    path: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    samples: Mapping[Key, float] = field(default_factory=dict)
    """As it reported them last."""
    started: float = 0.0
    before: dict[Key, float] = field(default_factory=dict)
    """What the workers counted that had its place before it."""


class WorkerMetrics(Collector):
    """Asks the workers at each scrape."""

    def __init__(self, paths: Sequence[str]) -> None:
        """`paths` are the Unix sockets where the workers serve their metrics."""
        self._workers = [_Worker(path) for path in paths]

    def collect(self) -> Iterable[Metric]:
        for worker in self._workers:
            try:
                _ask(worker)
            except (OSError, http.client.HTTPException, ValueError) as error:
                # Its last figures stand for it.
                log.warning(
                    "a worker reports no metrics", extra={"at": worker.path, "detail": str(error)}
                )
        merged: dict[str, Metric] = {}
        sums: dict[str, dict[Key, float]] = {}
        for worker in self._workers:
            for name, metric in worker.metrics.items():
                merged.setdefault(name, Metric(name, metric.documentation, metric.type))
                of_metric = sums.setdefault(name, {})
                for sample in metric.samples:
                    key = _key(sample.name, sample.labels)
                    of_metric[key] = of_metric.get(key, 0.0) + worker.samples[key]
            for key, value in worker.before.items():
                name = _family(key[0], worker.metrics)
                if name in merged:
                    sums[name][key] = sums[name].get(key, 0.0) + value
        for name, metric in merged.items():
            for (sample_name, labels), value in sums[name].items():
                metric.add_sample(sample_name, dict(labels), value)
        return merged.values()


def _ask(worker: _Worker) -> None:
    """Have it report. Raises OSError, HTTPException, ValueError."""
    reported = {each.name: each for each in text_string_to_metric_families(_scraped(worker.path))}
    started = reported[_STARTED].samples[0].value if _STARTED in reported else 0.0
    if started != worker.started:
        for metric in worker.metrics.values():
            if metric.type in ("counter", "histogram"):
                for sample in metric.samples:
                    key = _key(sample.name, sample.labels)
                    worker.before[key] = worker.before.get(key, 0.0) + worker.samples[key]
        worker.started = started
    worker.metrics = {name: each for name, each in reported.items() if name not in _LEFT_OUT}
    worker.samples = {
        _key(sample.name, sample.labels): sample.value
        for metric in worker.metrics.values()
        for sample in metric.samples
    }


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(labels.items())


def _family(sample_name: str, metrics: Mapping[str, Metric]) -> str:
    """The name of the metric that a sample of that name is of."""
    for suffix in ("", "_bucket", "_count", "_sum", "_total"):
        name = sample_name.removesuffix(suffix)
        if name in metrics:
            return name
    return sample_name


def _scraped(path: str) -> str:
    connection = http.client.HTTPConnection("worker", timeout=ANSWER_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(ANSWER_S)
        connection.sock.connect(path)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(f"status {answer.status}")
        return answer.read().decode()
    finally:
        connection.close()
