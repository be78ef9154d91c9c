"""The artifacts of an ensemble on disk, and the models that their predictors serve."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from trillium.model.description import ModelDescription
from trillium.server.process import StartFailed

_ASK_S = 5.0


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


async def describe(address: str) -> ModelDescription | None:
    """Return the model that the predictor at `address` serves; None if it serves none."""
    # Imported late: finding artifacts, which comes first, does not need gRPC.
    import grpc

    from trillium.client.credentials import access_of
    from trillium.model.messages import description_of
    from trillium.predictor.v1 import model_service_pb2 as model_pb
    from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
    from trillium.rpc.channels import client_channel

    async with client_channel(address, access_of()) as channel:
        try:
            answer = await ModelServiceStub(channel).GetModel(
                model_pb.GetModelRequest(), timeout=_ASK_S
            )
        except grpc.RpcError:
            return None
    if answer.state != model_pb.MODEL_STATE_READY:
        return None
    return description_of(answer.model)


def in_class_order(
    ensemble: str, models: Path, found: Sequence[ModelDescription]
) -> list[ModelDescription]:
    """`found` in the order of the ensemble's classes; unchanged if that is unknown.

    Raises StartFailed unless there is exactly one for each class of the ensemble.
    """
    _check_ensemble(ensemble, models, found)
    first = found[0]
    wanted = first.class_labels or tuple(each.class_label for each in found)
    by_label = {each.class_label: each for each in found}
    lacking = [label for label in wanted if label not in by_label]
    again = f"delete {models / ensemble}-*.onnx and train them again: {how_to_train(ensemble)}"
    if lacking:
        raise StartFailed(f"{models} has no model of {ensemble} for {', '.join(lacking)}; {again}")
    if len(by_label) != len(found) or len(found) != len(wanted):
        text = f"{models / ensemble}-*.onnx are not one model for each class of {ensemble}"
        raise StartFailed(f"{text}; move what does not belong, or {again}")
    return [by_label[label] for label in wanted]


def _check_ensemble(ensemble: str, models: Path, found: Sequence[ModelDescription]) -> None:
    for each in found:
        if each.ensemble == ensemble:
            continue
        if each.ensemble:
            what, hint = f"of the ensemble {each.ensemble}", "move its file elsewhere"
        else:
            sidecar = models / f"{each.name}.json"
            what, hint = "of no ensemble", f'write {{"ensemble": "{ensemble}"}} into {sidecar}'
        raise StartFailed(f"the model {each.name} is {what}: expected {ensemble}; {hint}")
