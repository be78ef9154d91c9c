"""The examples that `trillium up` scores for show."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from trillium.answers import PredictorState
from trillium.async_client import AsyncClient
from trillium.cli.ensemble import Example
from trillium.cli.processes import POLL_S, START_S
from trillium.cli.show import Score
from trillium.errors import TrilliumError
from trillium.process import StartFailed


async def until_whole(client: AsyncClient, labels: Sequence[str]) -> None:
    """Wait until the aggregator can ask a predictor of every class. Raises StartFailed."""
    wanted, ready = set(labels), set[str]()
    try:
        async with asyncio.timeout(START_S):
            while not (ready >= wanted and await client.is_serving()):
                await asyncio.sleep(POLL_S)
                with contextlib.suppress(TrilliumError):
                    predictors = await client.predictors()
                    is_ready = [each for each in predictors if each.state is PredictorState.READY]
                    ready = {each.class_label for each in is_ready}
    except TimeoutError:
        lacking = ", ".join(label for label in labels if label not in ready) or "health"
        text = f"the aggregator did not serve within {START_S:g} s; it lacks {lacking}"
        raise StartFailed(f"{text}; see the logs") from None


async def score(client: AsyncClient, examples: Sequence[Example]) -> list[Score]:
    """What the aggregator answers for each example, one call for each, and how long it took."""
    if examples:
        # The first call makes the connections, which is not what is to be timed.
        await _score_one(client, examples[0])
    return [await _score_one(client, example) for example in examples]


async def _score_one(client: AsyncClient, example: Example) -> Score:
    began = time.perf_counter()
    try:
        answer = await client.classify(example.features, include_probabilities=True)
    except TrilliumError as error:
        return Score(example.features, example.label, error=str(error))
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.class_probabilities is not None
    return Score(
        features=example.features,
        true_label=example.label,
        label=answer.labels[0] or "",
        probabilities=dict(
            zip(answer.class_labels, answer.class_probabilities[0].tolist(), strict=True)
        ),
        took_ms=took_ms,
    )
