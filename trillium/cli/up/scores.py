"""The examples that `trillium up` scores, and its run over a dataset."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from trillium.cli.run import of_message
from trillium.cli.show import Score, Screen
from trillium.cli.up.servers import POLL_S, START_S
from trillium.client.aio import AsyncClient
from trillium.client.answers import PredictorState
from trillium.client.controller import AsyncControllerClient
from trillium.client.described import VERB_TIMEOUT_S
from trillium.errors import TrilliumError
from trillium.model.description import Example
from trillium.server.process import StartFailed


async def until_ready(client: AsyncClient, labels: Sequence[str]) -> None:
    """Wait until the aggregator reaches a predictor of every class. Raises StartFailed."""
    ready = set[str]()
    try:
        async with asyncio.timeout(START_S):
            while not (ready >= set(labels) and await client.is_serving()):
                await asyncio.sleep(POLL_S)
                with contextlib.suppress(TrilliumError):
                    predictors = await client.predictors()
                    ready = {
                        each.class_label
                        for each in predictors
                        if each.state is PredictorState.READY
                    }
    except TimeoutError:
        missing = ", ".join(label for label in labels if label not in ready) or "health"
        text = f"the aggregator did not serve within {START_S:g} s; missing: {missing}"
        raise StartFailed(f"{text}; see the logs") from None


async def score(client: AsyncClient, examples: Sequence[Example]) -> list[Score]:
    """Score each example in a call of its own, and measure the time."""
    if examples:
        # The first call opens the connections, which must not count.
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


async def run_dataset(
    model: str, dataset: str, controller: AsyncControllerClient, screen: Screen
) -> bool:
    """Run a model over a dataset and print the result; returns False if that failed.

    A dataset that is not registered is skipped, which is no failure.
    """
    try:
        if dataset not in [each.name async for each in controller.datasets()]:
            return True
        screen.say(f"running {model} on the dataset {dataset} with its own predictor ...")
        message = await controller.run(model, dataset, run_timeout_s=VERB_TIMEOUT_S)
    except TrilliumError as error:
        screen.problem(f"{model} was not run on the dataset {dataset}: {error}")
        return False
    run = of_message(message)
    screen.run(run)
    return not run.failure
