"""What one call costs in each piece of code on its way, for 1, 64 and 1,024 rows of three classes.

pytest-benchmark gives the functions rounds and prints the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from aggregator.combine import combine, decide
from aggregator.lanes.lane import Lane
from aggregator.lanes.ticket import Part, Ticket
from bench.checking import flowers
from bench.processes import ROOT
from bench.systems.known import probabilities, request
from bench.systems.naive import LABELS
from predictor.onnx import Classifier
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.clock import SystemClock
from trillium.model.declared import DeclaredFacts
from trillium.rows import from_block
from trillium.tensor.v1 import tensor_pb2

ROWS = (1, 64, 1024)
PARTS = 64
CLOCK = SystemClock()


@pytest.fixture
def in_loop() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Calls a function with an event loop running, as tickets want it."""
    with asyncio.Runner() as runner:

        async def called(make: Callable[[], Any]) -> Any:
            return make()

        yield lambda make: runner.run(called(make))


def _columns(rows: int) -> list[bytes]:
    random = np.random.default_rng(0)
    return [random.uniform(0, 1, rows).astype("<f4").tobytes() for _ in LABELS]


@pytest.mark.parametrize("rows", ROWS)
def test_request_to_checked_rows(benchmark: BenchmarkFixture, rows: int) -> None:
    message = request(flowers(rows))

    def decode() -> Any:
        matrix = pb.ClassifyRequest.FromString(message).matrix
        return from_block(
            matrix.row_count,
            matrix.column_count,
            matrix.data,
            feature_count=4,
            max_rows=10_000,
        )

    assert np.array_equal(benchmark(decode).array(), flowers(rows))


@pytest.mark.parametrize("rows", ROWS)
def test_probabilities_to_answer(benchmark: BenchmarkFixture, rows: int) -> None:
    scores = combine(LABELS, _columns(rows))
    best = decide(scores, LABELS)

    def encode() -> bytes:
        packed = pb.PackedClassifications(
            label_indexes=best.indexes.tolist(),
            label_probabilities=best.probabilities.tolist(),
            probabilities=tensor_pb2.Float32Matrix(
                row_count=rows, column_count=len(LABELS), data=scores.probabilities.tobytes()
            ),
        )
        answer = pb.ClassifyResponse(ensemble="iris", class_labels=LABELS, packed=packed)
        return answer.SerializeToString()

    assert np.array_equal(probabilities(benchmark(encode)), scores.probabilities)


@pytest.mark.parametrize("rows", [1, 16])
def test_assembling_and_settling_a_batch(
    benchmark: BenchmarkFixture, in_loop: Callable[[Callable[[], Any]], Any], rows: int
) -> None:
    block = from_block(rows, 4, flowers(rows).tobytes(), feature_count=4, max_rows=10_000)
    answer = np.zeros(PARTS * rows, "<f4").tobytes()

    def parts() -> list[Part]:
        deadline = CLOCK.monotonic() + 1000
        return [
            Ticket(
                block, LABELS[:1], deadline=deadline, wants_all=True, trace_id="", clock=CLOCK
            ).part(0, "")
            for _ in range(PARTS)
        ]

    def queued() -> tuple[tuple[Lane, list[Part]], dict[str, Any]]:
        return (Lane("setosa", max_queued_rows=65536, max_batch_rows=4096), in_loop(parts)), {}

    def assemble(lane: Lane, waiting: list[Part]) -> int:
        for part in waiting:
            lane.put(part)
        batch = lane.take()
        assert batch is not None
        batch.sent_to("host:1", lambda: None)
        batch.settle(answer)
        return len(batch.parts)

    repeat: Any = benchmark.pedantic
    assert repeat(assemble, setup=queued, rounds=300) == PARTS


@pytest.mark.parametrize("rows", ROWS)
def test_combining(benchmark: BenchmarkFixture, rows: int) -> None:
    columns = _columns(rows)
    scores = benchmark(combine, LABELS, columns)
    assert scores.probabilities.shape == (rows, len(LABELS))


@pytest.mark.parametrize("rows", ROWS)
def test_deciding_the_label(benchmark: BenchmarkFixture, rows: int) -> None:
    scores = combine(LABELS, _columns(rows))
    labels = benchmark(decide, scores, LABELS)
    assert np.array_equal(labels.indexes, scores.probabilities.argmax(axis=1))


@pytest.mark.parametrize("rows", ROWS)
def test_one_predictor_call(benchmark: BenchmarkFixture, rows: int) -> None:
    path = Path(ROOT / "models" / "iris-setosa.onnx")
    model = Classifier(path.read_bytes(), DeclaredFacts())
    assert benchmark(model.raw_scores, flowers(rows)).shape == (rows,)
