"""An ensemble: every class's model trained, scored together, and published together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from trillium.training.errors import NotGoodEnough
from trillium.training.facts import metadata
from trillium.training.member import Member, train_member
from trillium.training.methods import Method
from trillium.training.names import artifact_paths
from trillium.training.publishing import publish
from trillium.training.split import Split, split
from trillium.training.table import Table
from trillium.training.trained import Progress, Trained, TrainedModel


def train_ensemble(
    ensemble: str,
    table: Table,
    output: Path,
    *,
    method: Method,
    accuracy_floor: float,
    progress: Progress | None,
) -> Trained:
    """Train every class and publish the artifacts; `trillium.training.train` says the rest."""
    parts, members = split(ensemble, table), list[Member]()
    for class_index in range(len(table.class_labels)):
        members.append(train_member(parts, class_index, method))
        if progress is not None:
            progress(len(members), len(table.class_labels))
    accuracy = _combined_accuracy(parts, members)
    if accuracy < accuracy_floor:
        raise NotGoodEnough(
            f"the combined held-out accuracy of {ensemble} is {accuracy:.4f}, below the floor of "
            f"{accuracy_floor:.4f}, and nothing was written"
        )
    paths = artifact_paths(output, ensemble, table.class_labels)
    contents = _finished(parts, members, accuracy)
    publish(dict(zip(paths, contents, strict=True)), output)
    return Trained(
        ensemble=ensemble,
        models=tuple(map(_told, members, paths)),
        accuracy=accuracy,
        row_count=len(table.classes),
        held_out_row_count=len(parts.held_out),
        feature_names=table.feature_names,
        left_out=table.left_out,
    )


def _combined_accuracy(parts: Split, members: Sequence[Member]) -> float:
    """Held-out accuracy (0 to 1) of the most probable class; of equals, the first class wins."""
    positive = np.stack([member.probabilities[:, 1] for member in members], axis=1)
    return float(np.mean(positive.argmax(axis=1) == parts.table.classes[parts.held_out]))


def _finished(parts: Split, members: Sequence[Member], combined: float) -> Iterator[bytes]:
    """Each member's model with its metadata."""
    for member in members:
        scores = {**member.scores, "combined_accuracy": combined}
        helper.set_model_props(member.model, metadata(parts, member.class_label, scores))
        yield member.model.SerializeToString(deterministic=True)


def _told(member: Member, path: Path) -> TrainedModel:
    return TrainedModel(
        class_label=member.class_label,
        path=path,
        accuracy=member.scores["accuracy"],
        roc_auc=member.scores["roc_auc"],
        log_loss=member.scores["log_loss"],
        deviation=member.deviation,
        converged=member.converged,
    )
