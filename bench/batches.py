"""How many requests travel in a batch, as the predictors count, and whether those are enough.

A run whose batches are small measures something else than the aggregator that users get: requests
that are there at once have arrived one by one, and everything else looks slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from bench.h2load import Failed
from trillium.oip import open_inference_pb2 as pb

LEAST_SHARE = 0.7
"""Of the callers that ask at once, so many must be in a batch on the average."""
CALLERS = {"c16": 16, "c64": 64}
"""The loads that this is asked of, and how many call there at once."""
_STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """What predictors have done since they were started, all together."""

    rows: int = 0
    runs: int = 0
    """Each of one batch."""


def scored(predictors: Sequence[str]) -> Scored:
    """What the predictors at these addresses have done. Raises Failed."""
    rows = runs = 0
    for address in predictors:
        with grpc.insecure_channel(address) as channel:
            ask: Any = channel.unary_unary(
                _STATISTICS, response_deserializer=pb.ModelStatisticsResponse.FromString
            )
            try:
                answer = ask(b"", timeout=_PATIENCE_S)
            except grpc.RpcError as error:
                raise Failed(f"the predictor at {address} tells no statistics: {error}") from error
        rows += sum(each.inference_count for each in answer.model_stats)
        runs += sum(each.execution_count for each in answer.model_stats)
    return Scored(rows, runs)


def mean_batch(before: Scored, after: Scored, rows: int) -> float:
    """Requests of `rows` rows in a batch, on the average, between the two; NaN without a batch."""
    runs = after.runs - before.runs
    return (after.rows - before.rows) / rows / runs if runs else math.nan


def shortfalls(means: Mapping[tuple[str, str], float]) -> list[str]:
    """A sentence for each mean batch, by system and load, that is too small or was not measured.

    Loads that are not in `CALLERS` may have any.
    """
    found = []
    for (system, load), mean in means.items():
        if load not in CALLERS:
            continue
        least = LEAST_SHARE * CALLERS[load]
        if math.isnan(mean):
            found.append(f"{system} at {load}: the mean batch was not measured")
        elif mean < least:
            found.append(
                f"{system} at {load}: the mean batch is {mean:.1f} of {CALLERS[load]} requests,"
                f" expected at least {least:.1f}"
            )
    return found
