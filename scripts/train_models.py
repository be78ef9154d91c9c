"""Train an ensemble: one binary one-vs-rest ONNX model for each class of a bundled dataset.

    python scripts/train_models.py                        # iris, into models/
    python scripts/train_models.py --ensemble digits      # or wine
    python scripts/train_models.py --if-missing           # only if an artifact is not there yet

Each class gets `<output>/<ensemble>-<class_label>.onnx`. The artifact describes itself in its
`trillium.*` metadata, so a predictor needs nothing but the file. Two runs with the same package
versions write the same bytes. To add an ensemble, add an entry to `ENSEMBLES` in ensembles.py.

Exit status: 0 when the artifacts are in place, 1 when they could not be made or written, 2 when
the command line is wrong. The reason is one sentence on stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import skl2onnx
import sklearn
from onnx import helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

# Python searches scripts/ alone when this is run as a file, and the root when it is imported.
if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.ensembles import ENSEMBLES, SPLIT_SEED, Dataset, Rows, load_dataset
from scripts.publishing import publish

Probabilities: TypeAlias = npt.NDArray[np.float32]  # [row, 2]: (the other classes, this class)

TARGET_OPSET = 15  # the converter may settle lower; onnxruntime reads this since 1.10
PARITY_TOLERANCE = 1e-5  # largest allowed |ONNX - scikit-learn|, a probability
OUTPUT_NAME = "probabilities"
EXAMPLES_PER_CLASS = 2
EXAMPLE_CLASSES_LIMIT = 10


class TrainingRefusedError(Exception):
    """The models are not good enough to be published; the message is a sentence for a person."""


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One class's trained model, and what its ONNX form answers for the held-out rows."""

    class_label: str
    model: onnx.ModelProto
    probabilities: Probabilities
    scores: Mapping[str, float]
    deviation: float  # largest |ONNX - scikit-learn| over the held-out split


def served_rows(rows: Rows) -> Rows:
    """`rows` rounded to what a float32 input can hold, still as float64.

    Models are fitted on, and compared with, exactly the numbers that will reach them when served.
    """
    return rows.astype(np.float32).astype(np.float64)


def fit(dataset: Dataset, class_index: int) -> Any:
    """Fit the estimator that tells class `class_index` from all others, on the training rows."""
    estimator = ENSEMBLES[dataset.ensemble].classifier()
    rows = served_rows(dataset.rows[dataset.training])
    # Parallel BLAS may add in a different order from one run to the next; one thread does not.
    with threadpool_limits(limits=1):
        return estimator.fit(rows, dataset.classes[dataset.training] == class_index)


def export(estimator: Any, dataset: Dataset, class_label: str) -> onnx.ModelProto:
    """Convert to ONNX: float32 [None, k] in; label and float32 probabilities [None, 2] out."""
    model: onnx.ModelProto = skl2onnx.convert_sklearn(
        estimator,
        name=f"{dataset.ensemble}-{class_label}",
        initial_types=[("input", FloatTensorType([None, len(dataset.feature_names)]))],
        target_opset=TARGET_OPSET,
        options={"zipmap": False},
    )
    # The converter may list a domain twice, which strict readers reject.
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())
    )
    model.producer_name, model.producer_version = "trillium", "1"
    return model


def onnx_probabilities(artifact: bytes, rows: Rows) -> Probabilities:
    """What onnxruntime answers for `rows` when it serves `artifact` on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: rows.astype(np.float32)}
    answer: Probabilities = session.run([OUTPUT_NAME], feed)[0]
    return answer


def train_member(dataset: Dataset, class_index: int) -> Member:
    """Train, convert and score the model of one class.

    Raises:
        TrainingRefusedError: the ONNX probabilities are not scikit-learn's.
    """
    class_label = dataset.class_labels[class_index]
    estimator = fit(dataset, class_index)
    model = export(estimator, dataset, class_label)
    held_out = dataset.rows[dataset.held_out]
    served = onnx_probabilities(model.SerializeToString(), held_out)
    deviation = float(np.abs(served - estimator.predict_proba(served_rows(held_out))).max())
    # Written so that a NaN is refused too.
    if not deviation <= PARITY_TOLERANCE:
        raise TrainingRefusedError(
            f"The ONNX model of {dataset.ensemble}-{class_label} differs from scikit-learn by "
            f"{deviation:.1e}, more than {PARITY_TOLERANCE:.0e}; nothing was written."
        )
    truth, positive = dataset.classes[dataset.held_out] == class_index, served[:, 1].astype(float)
    scores = {
        "accuracy": float(np.mean((positive > 0.5) == truth)),
        "roc_auc": float(roc_auc_score(truth, positive)),
        "log_loss": float(log_loss(truth, positive)),
    }
    return Member(class_label, model, served, scores, deviation)


def combined_accuracy(dataset: Dataset, members: Sequence[Member]) -> float:
    """Held-out accuracy (0 to 1) of the most probable class; of equals, the first class wins."""
    positive = np.stack([member.probabilities[:, 1] for member in members], axis=1)
    return float(np.mean(positive.argmax(axis=1) == dataset.classes[dataset.held_out]))


def examples(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The first held-out rows of each class, with their true label, whatever the models say."""
    held_out_classes = dataset.classes[dataset.held_out]
    for class_index, label in enumerate(dataset.class_labels[:EXAMPLE_CLASSES_LIMIT]):
        for row in dataset.held_out[held_out_classes == class_index][:EXAMPLES_PER_CLASS]:
            yield {"features": dataset.rows[row].tolist(), "label": label}


def versions() -> dict[str, str]:
    """What the artifact was made with."""
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "skl2onnx": skl2onnx.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }


def metadata(dataset: Dataset, member: Member, combined: float) -> dict[str, str]:
    """The `trillium.*` properties of an artifact; all but the plain names are JSON.

    `sha256` covers the little-endian bytes of the float64 rows followed by the int64 classes.
    """
    scores = {**member.scores, "combined_accuracy": combined}
    training_set = {
        "name": dataset.ensemble,
        "sha256": hashlib.sha256(dataset.rows.tobytes() + dataset.classes.tobytes()).hexdigest(),
        "row_count": len(dataset.rows),
        "held_out_row_count": len(dataset.held_out),
        "split_seed": SPLIT_SEED,
    }
    return {
        "trillium.format": "1",
        "trillium.ensemble": dataset.ensemble,
        "trillium.class_label": member.class_label,
        "trillium.class_labels": json.dumps(dataset.class_labels),
        "trillium.positive_column": "1",
        "trillium.output_name": OUTPUT_NAME,
        "trillium.feature_names": json.dumps(dataset.feature_names),
        "trillium.sample": json.dumps(dataset.rows[0].tolist()),
        "trillium.examples": json.dumps(list(examples(dataset))),
        "trillium.training_set": json.dumps(training_set),
        "trillium.scores": json.dumps({name: round(value, 6) for name, value in scores.items()}),
        "trillium.versions": json.dumps(versions()),
    }


def artifact_path(output: Path, ensemble: str, class_label: str) -> Path:
    """Where the artifact of one class belongs."""
    return output / f"{ensemble}-{class_label}.onnx"


def finished(
    dataset: Dataset, members: Sequence[Member], combined: float, output: Path
) -> Iterator[tuple[Path, bytes]]:
    """Complete each member's model with its metadata; where it belongs, and its bytes."""
    for member in members:
        helper.set_model_props(member.model, metadata(dataset, member, combined))
        content = member.model.SerializeToString(deterministic=True)
        yield artifact_path(output, dataset.ensemble, member.class_label), content


def train(ensemble: str, output: Path) -> None:
    """Train every class of `ensemble`, a key of `ENSEMBLES`, and publish the artifacts together.

    Raises:
        TrainingRefusedError: the models are not good enough; nothing was written.
        OSError: `output` cannot be written; every artifact in it is whole, old or new.
    """
    dataset = load_dataset(ensemble)
    held_out_count = len(dataset.held_out)
    print(
        f"{ensemble}: {len(dataset.rows)} rows of {len(dataset.feature_names)} features in "
        f"{len(dataset.class_labels)} classes, {held_out_count} rows held out (seed {SPLIT_SEED})"
    )
    members = []
    for class_index in range(len(dataset.class_labels)):
        members.append(train_member(dataset, class_index))
        print(describe(members[-1]), flush=True)
    combined = combined_accuracy(dataset, members)
    floor = ENSEMBLES[ensemble].accuracy_floor
    if combined < floor:
        raise TrainingRefusedError(
            f"The combined held-out accuracy of {ensemble} is {combined:.4f}, below the floor of "
            f"{floor:.4f}; nothing was written."
        )
    publish(dict(finished(dataset, members, combined, output)), output)
    correct = round(combined * held_out_count)
    print(
        f"{ensemble}: {len(members)} models in {output}, combined held-out accuracy "
        f"{combined:.4f} ({correct} of {held_out_count})"
    )


def describe(member: Member) -> str:
    """One progress line for a person: the class and its held-out scores."""
    scores = member.scores
    return (
        f"  {member.class_label:<12} accuracy {scores['accuracy']:.4f}   "
        f"ROC AUC {scores['roc_auc']:.4f}   log loss {scores['log_loss']:.4f}   "
        f"ONNX within {member.deviation:.0e} of scikit-learn"
    )


def all_present(ensemble: str, output: Path) -> bool:
    """Whether every artifact of `ensemble` is a file in `output` that is not empty."""
    paths = (artifact_path(output, ensemble, x) for x in load_dataset(ensemble).class_labels)
    return all(path.is_file() and path.stat().st_size > 0 for path in paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ensemble", default="iris", help=f"one of {', '.join(ENSEMBLES)}")
    parser.add_argument("--output", default="models", type=Path, help="folder of the artifacts")
    parser.add_argument("--if-missing", action="store_true", help="keep a complete set as it is")
    options = parser.parse_args(arguments)
    if options.ensemble not in ENSEMBLES:
        known = ", ".join(ENSEMBLES)
        print(f"Unknown ensemble '{options.ensemble}': choose one of {known}.", file=sys.stderr)
        return 2
    try:
        if options.if_missing and all_present(options.ensemble, options.output):
            print(f"{options.ensemble}: all models are in {options.output} already")
        else:
            train(options.ensemble, options.output)
    except TrainingRefusedError as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Cannot write to {options.output}: {error.strerror or error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
