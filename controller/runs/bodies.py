"""Runs as store bodies and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, TypeVar

from ..store.port import Body
from .run import Evaluation, Lease, Order, Run, RunState

T = TypeVar("T")


def run_body(run: Run) -> Body:
    """The body of a run's record; `state` and `model` stand on top, to list by."""
    body = asdict(run) | {"state": run.state.value}
    del body["id"]
    if run.evaluation is not None:
        body["evaluation"] = {
            "accuracy": run.evaluation.accuracy,
            "labels": list(run.evaluation.labels),
            "confusion": list(run.evaluation.confusion),
        }
    return body


def run_of(id: str, body: Body) -> Run:
    """The run that `run_body` made `body` of; fields that it lacks get their defaults."""
    evaluation = body.get("evaluation")
    values = {
        **body,
        "id": id,
        "state": RunState(body["state"]),
        "order": _made(Order, body["order"]),
        "lease": _made(Lease, body.get("lease", {})),
        "evaluation": None if evaluation is None else _evaluation(evaluation),
    }
    return _made(Run, values)


def _evaluation(body: Body) -> Evaluation:
    return Evaluation(body["accuracy"], tuple(body["labels"]), tuple(body["confusion"]))


def _made(kind: type[T], values: Any) -> T:
    """A dataclass of the values that it knows: a later version's further ones are left out."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in known})
