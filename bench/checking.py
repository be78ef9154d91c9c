"""Whether a system answers right: against ONNX Runtime itself, alone and under load."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bench.asking import asking
from bench.systems.known import Rows, Up
from bench.systems.naive import LABELS

_CLIENTS = 64
_CALLS_OF_EACH = 10
_TOLERANCE = 1e-6


class Reference:
    """The three models in this process, on one thread each."""

    def __init__(self, models: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._sessions: Mapping[str, ort.InferenceSession] = {
            label: ort.InferenceSession(
                models / f"iris-{label}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for label in LABELS
        }

    def probabilities(self, rows: Rows) -> Rows:
        """Shape [n, classes]."""
        return np.stack(
            [
                session.run(["probabilities"], {"input": rows})[0][:, 1]
                for session in self._sessions.values()
            ],
            axis=1,
        )


def flowers(count: int, seed: int = 0) -> Rows:
    """Rows as flowers could be, all different, float32 [count, 4]."""
    random = np.random.default_rng(seed)
    low, high = (4.3, 2.0, 1.0, 0.1), (7.9, 4.4, 6.9, 2.5)
    return random.uniform(low, high, (count, 4)).astype(np.float32)


def check_answer(up: Up, rows: Rows, answer: bytes, reference: Reference) -> None:
    """Raises AssertionError unless an answer is right."""
    if up.probabilities is None:
        assert answer == up.request(rows), f"{up.name} does not echo"
        return
    told, right = up.probabilities(answer), reference.probabilities(rows)
    assert told.shape == right.shape, f"{up.name} answered shape {told.shape}"
    assert np.abs(told - right).max() <= _TOLERANCE, f"{up.name} answered {told}, not {right}"
    if up.labels is not None:
        best = [LABELS[index] for index in told.argmax(axis=1)]
        assert up.labels(answer) == best, f"{up.name} answered labels that are not the best"


async def check_under_load(up: Up, reference: Reference) -> int:
    """Ask from many clients at once, each with rows of its own; answers how many calls were right.

    Raises AssertionError for a wrong answer, and the call's error for none.
    """
    async with asking(up) as ask:

        async def client(number: int) -> None:
            for turn in range(_CALLS_OF_EACH):
                rows = flowers(1 + (number + turn) % 5, seed=1000 * number + turn)
                answer = await ask(up.request(rows))
                check_answer(up, rows, answer, reference)

        await asyncio.gather(*map(client, range(_CLIENTS)))
    return _CLIENTS * _CALLS_OF_EACH
