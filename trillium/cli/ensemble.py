"""The artifacts of an ensemble on disk, and what the predictors that serve them say of it."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trillium.process import StartFailed

_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Example:
    """A row to score for show."""

    features: tuple[float, ...]
    label: str
    """Its true class; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a model that is served."""

    model: str
    """Its name in the catalog."""
    ensemble: str
    """Empty if unknown."""
    class_label: str
    ensemble_class_labels: tuple[str, ...]
    """In metadata order; empty if unknown."""
    feature_names: tuple[str, ...]
    examples: tuple[Example, ...]
    """From the held-out split, or the sample alone, or none."""


def how_to_train(ensemble: str) -> str:
    """The command that trains an ensemble."""
    return "make models" if ensemble == "iris" else f"make models ENSEMBLE={ensemble}"


def artifacts(models: Path, ensemble: str) -> tuple[Path, ...]:
    """`<models>/<ensemble>-*.onnx`, numbers in their names in numeric order.

    Raises StartFailed when there are none.
    """
    pattern = f"{glob.escape(ensemble)}-*.onnx"
    found = [path for path in models.glob(pattern) if path.is_file()]
    if not found:
        text = f"there are no models of {ensemble} in {models}; train them first"
        command = f"trillium models train --builtin {ensemble}"
        raise StartFailed(f"{text}: {how_to_train(ensemble)} (or {command})")
    return tuple(sorted(found, key=_natural))


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


async def describe(address: str) -> Described | None:
    """Ask the predictor at `address` what it serves; None if nobody there says that."""
    # Not needed to find artifacts, which is done before anything can start.
    import grpc

    from trillium.predictor.v1 import model_service_pb2 as model_pb
    from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
    from trillium.rpc.channels import client_channel

    async with client_channel(address) as channel:
        try:
            answer = await ModelServiceStub(channel).GetModel(
                model_pb.GetModelRequest(), timeout=_ASK_S
            )
        except grpc.RpcError:
            return None
    if answer.state != model_pb.MODEL_STATE_READY:
        return None
    model = answer.model
    return Described(
        model=model.name,
        ensemble=model.ensemble,
        class_label=model.class_label,
        ensemble_class_labels=tuple(model.ensemble_class_labels),
        feature_names=tuple(model.feature_names),
        examples=_examples(model.metadata.get("examples", "")) or _sample(model.sample),
    )


def in_class_order(ensemble: str, models: Path, found: Sequence[Described]) -> list[Described]:
    """`found` in the order of the ensemble's classes; as they came if nobody knows that.

    Raises StartFailed unless there is exactly one for each class of the ensemble.
    """
    _check_ensemble(ensemble, models, found)
    first = found[0]
    wanted = first.ensemble_class_labels or tuple(each.class_label for each in found)
    by_label = {each.class_label: each for each in found}
    lacking = [label for label in wanted if label not in by_label]
    again = f"delete {models / ensemble}-*.onnx and train them anew: {how_to_train(ensemble)}"
    if lacking:
        raise StartFailed(f"{models} has no model of {ensemble} for {', '.join(lacking)}; {again}")
    if len(by_label) != len(found) or len(found) != len(wanted):
        text = f"{models / ensemble}-*.onnx are not one model for each class of {ensemble}"
        raise StartFailed(f"{text}; move what does not belong, or {again}")
    return [by_label[label] for label in wanted]


def _check_ensemble(ensemble: str, models: Path, found: Sequence[Described]) -> None:
    for each in found:
        if each.ensemble == ensemble:
            continue
        if each.ensemble:
            what, hint = f"of the ensemble {each.ensemble}", "move its file elsewhere"
        else:
            beside = models / f"{each.model}.json"
            what, hint = "of no ensemble", f'write {{"ensemble": "{ensemble}"}} into {beside}'
        raise StartFailed(f"the model {each.model} is {what}, and {ensemble} is wanted; {hint}")


def _examples(text: str) -> tuple[Example, ...]:
    """The artifact's examples; none if it has no usable ones, which is no reason not to serve."""
    try:
        entries: list[dict[str, Any]] = json.loads(text)
        return tuple(
            Example(tuple(float(value) for value in entry["features"]), str(entry["label"]))
            for entry in entries
        )
    except (ValueError, TypeError, KeyError):
        return ()


def _sample(features: Sequence[float]) -> tuple[Example, ...]:
    # Rounded to what float32 can tell apart, so that 5.1 does not show as 5.0999999.
    return (Example(tuple(float(f"{x:.7g}") for x in features), ""),) if features else ()
