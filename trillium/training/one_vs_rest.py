"""An ensemble: every class's model trained, scored together, and published together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import helper

from trillium.training.errors import NotGoodEnough
from trillium.training.facts import metadata
from trillium.training.figures import ClassFigures, Figures, figures_of, warnings_of
from trillium.training.member import Member, train_member
from trillium.training.methods import Recipe
from trillium.training.names import artifact_paths
from trillium.training.publishing import publish
from trillium.training.report import check_report, write_report
from trillium.training.split import Split, split
from trillium.training.table import Table
from trillium.training.trained import Progress, Trained, TrainedModel


def train_ensemble(
    ensemble: str,
    table: Table,
    output: Path,
    *,
    recipe: Recipe,
    accuracy_floor: float,
    progress: Progress | None,
    report: Path | None = None,
) -> Trained:
    """Train every class and publish the artifacts; see `trillium.training.train`."""
    parts, members = split(ensemble, table), list[Member]()
    recipe.check(int(np.bincount(table.classes[parts.training]).min()))
    if report is not None:
        check_report(report)
    for class_index in range(len(table.class_labels)):
        members.append(train_member(parts, class_index, recipe))
        if progress is not None:
            progress(len(members), len(table.class_labels))
    positive = np.stack([member.probabilities[:, 1] for member in members], axis=1)
    figures = figures_of(parts, positive)
    accuracy = figures.accuracy
    if accuracy < accuracy_floor:
        raise NotGoodEnough(
            f"the combined held-out accuracy of {ensemble} is {accuracy:.4f}, below the floor of "
            f"{accuracy_floor:.4f}, and nothing was written"
        )
    paths = artifact_paths(output, ensemble, table.class_labels)
    contents = _finished(parts, members, figures, recipe)
    publish(dict(zip(paths, contents, strict=True)), output)
    trained = Trained(
        ensemble=ensemble,
        models=tuple(map(_trained_model, members, figures.classes, paths)),
        accuracy=accuracy,
        confusion=figures.confusion,
        warnings=(*table.notes, *warnings_of(parts, figures)),
        row_count=len(table.classes),
        held_out_row_count=len(parts.held_out),
        feature_names=table.feature_names,
        left_out=table.left_out,
    )
    if report is not None:
        write_report(report, trained, parts.table.classes[parts.held_out], positive)
    return trained


def _finished(
    parts: Split, members: Sequence[Member], figures: Figures, recipe: Recipe
) -> Iterator[bytes]:
    """Each member's model with its metadata."""
    for member, of_class in zip(members, figures.classes, strict=True):
        scores = {
            **member.scores,
            "precision": of_class.precision,
            "recall": of_class.recall,
            "f1": of_class.f1,
            "combined_accuracy": figures.accuracy,
        }
        helper.set_model_props(member.model, metadata(parts, member.class_label, scores, recipe))
        yield member.model.SerializeToString(deterministic=True)


def _trained_model(member: Member, figures: ClassFigures, path: Path) -> TrainedModel:
    return TrainedModel(
        class_label=member.class_label,
        path=path,
        accuracy=member.scores["accuracy"],
        roc_auc=member.scores["roc_auc"],
        log_loss=member.scores["log_loss"],
        average_precision=member.scores["average_precision"],
        support=figures.support,
        precision=figures.precision,
        recall=figures.recall,
        f1=figures.f1,
        deviation=member.deviation,
        converged=member.converged,
    )
