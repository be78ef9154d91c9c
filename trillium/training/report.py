"""A report on a trained ensemble: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trillium.training.packages import check_package
from trillium.training.trained import Trained

_MOST_CLASSES = 12
"""More would not fit into one plot."""
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}th,td{padding:.2rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}"
    "img{max-width:100%}.warning{color:#9a5b00}"
)


def check_report(path: Path) -> None:
    """Raises PackagesMissing if there is nothing to plot with, and OSError if the folder is no
    place for the report."""
    check_package("matplotlib")
    path.parent.mkdir(parents=True, exist_ok=True)


def write_report(
    path: Path,
    trained: Trained,
    truth: npt.NDArray[np.int64],
    positive: npt.NDArray[np.float32],
) -> None:
    """Write the figures and plots of the held-out rows: `truth` [n] as class indices, and every
    class's probability, `positive` [n, classes]. Raises OSError."""
    title = html.escape(f"{trained.ensemble}: {len(trained.models)} models")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1>",
        f"<p>Combined accuracy {trained.accuracy:.4f} on {trained.held_out_row_count} of "
        f"{trained.row_count} rows, which were held out.</p>",
        *(f'<p class="warning">{html.escape(each)}</p>' for each in trained.warnings),
        _table(trained),
        "<h2>Features</h2>",
        f"<p>{html.escape(', '.join(trained.feature_names))}</p>",
    ]
    for heading, image in _plots(trained, truth, positive):
        data = base64.b64encode(image).decode()
        parts.append(f"<h2>{heading}</h2>")
        parts.append(f'<img alt="{heading}" src="data:image/png;base64,{data}">')
    path.write_text("\n".join([*parts, "</html>", ""]), encoding="utf-8")


def _table(trained: Trained) -> str:
    headings = ("class", "rows", "precision", "recall", "F1", "average precision", "ROC AUC")
    lines = ["<tr>" + "".join(f"<th>{each}</th>" for each in headings) + "</tr>"]
    for model in trained.models:
        figures = (model.precision, model.recall, model.f1, model.average_precision, model.roc_auc)
        cells = [html.escape(model.class_label), str(model.support)]
        cells += [f"{each:.4f}" for each in figures]
        lines.append("<tr>" + "".join(f"<td>{each}</td>" for each in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _plots(
    trained: Trained, truth: npt.NDArray[np.int64], positive: npt.NDArray[np.float32]
) -> Iterator[tuple[str, bytes]]:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve

    labels = [_plain(model.class_label) for model in trained.models]
    shown = list(enumerate(labels[:_MOST_CLASSES]))
    figure, axes = _figure("probability", "share of rows of the class")
    for index, label in shown:
        share, mean = calibration_curve(
            truth == index, np.clip(positive[:, index], 0, 1), n_bins=10, strategy="quantile"
        )
        axes.plot(mean, share, marker="o", label=label)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    axes.legend()
    yield "Calibration", _png(figure)
    figure, axes = _figure("recall", "precision")
    for index, label in shown:
        precision, recall, _ = precision_recall_curve(truth == index, positive[:, index])
        axes.plot(recall, precision, label=label)
    axes.legend()
    yield "Precision and recall", _png(figure)
    figure, axes = _figure("predicted class", "true class")
    axes.imshow(trained.confusion, cmap="Blues")
    if len(labels) <= _MOST_CLASSES:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        most = trained.confusion.max()
        for (row, column), count in np.ndenumerate(trained.confusion):
            color = "white" if count > most / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    yield "Confusion", _png(figure)


def _plain(label: str) -> str:
    """A label without the signs that mathematical text begins with."""
    return label.replace("$", r"\$")


def _figure(x: str, y: str) -> tuple[Any, Any]:
    # Without pyplot, which would keep the figures and look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
