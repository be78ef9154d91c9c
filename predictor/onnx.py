"""ONNX Runtime, and nothing above it knows that: opens artifacts and scores rows.

What is opened is a binary classifier with one float input [n, k] whose probabilities are a tensor
[n, 2] or [n, 1], or ZipMap's sequence of maps. ZipMap is cut out of the graph on opening: it costs
as much as the model itself, and its map is walked in Python.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort

from predictor.artifact import Facts, from_metadata
from predictor.columns import check_column_is_of_class, with_column_of_key
from predictor.graph import Unusable, check_self_contained, without_zipmap
from trillium.errors import Cancelled, ModelFailed, ModelRejected
from trillium.rows import Probabilities, Rows, are_probabilities

_DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "tensor(float16)": ("FP16", np.dtype(np.float16)),
    "tensor(float)": ("FP32", np.dtype(np.float32)),
    "tensor(double)": ("FP64", np.dtype(np.float64)),
}
_PROBE_ROWS = 64
_MAX_FEATURES = 2**20
"""Above any real model's, and low enough that an artifact cannot take the memory by its width."""
_SINGLE = np.dtype(np.float32)
_GOLDEN_RATIO = (1 + 5**0.5) / 2
_SUM_SLACK = 1e-2
"""How far a class and its complement may be from adding up to 1; wide enough for float16."""

ort.set_default_logger_severity(4)  # What goes wrong reaches the caller as an exception.


class RunHandle:
    """Stops one run from another thread."""

    __slots__ = ("_options",)

    def __init__(self) -> None:
        self._options = ort.RunOptions()

    def stop(self) -> None:
        """End the run before its next node; it then raises Cancelled."""
        self._options.terminate = True


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run of n rows takes: `fixed_s + n * row_s` seconds, measured when warming up."""

    fixed_s: float
    row_s: float

    def of(self, row_count: int) -> float:
        """Seconds that a run of so many rows is expected to take."""
        return self.fixed_s + row_count * self.row_s


class Classifier:
    """An open model. Not used after `close`; safe to run from several threads."""

    def __init__(
        self,
        artifact: bytes,
        said: Facts,
        *,
        threads: int = 1,
        handle: RunHandle | None = None,
    ) -> None:
        """Open, check and warm up; `said` overrides what the artifact says of itself.

        Takes as long as the model needs for a few runs; `handle` stops them. Raises ModelRejected
        with the reason, and Cancelled.
        """
        try:
            check_self_contained(artifact)
            self._session = _open(artifact, threads)
            facts = from_metadata(self._session.get_modelmeta().custom_metadata_map)
            check_column_is_of_class(facts, said)
            facts = facts.overridden_by(said)
            if any(output.type.startswith("seq(map") for output in self._session.get_outputs()):
                artifact, keys = without_zipmap(artifact, facts.output_name)
                facts = with_column_of_key(facts, keys)
                self._session = _open(artifact, threads)
            self._input, self.feature_count = _the_input(self._session.get_inputs(), facts)
            self.input_dtype, self._dtype = _DTYPES[self._input.type]
            self._output = _the_output(self._session.get_outputs(), facts.output_name)
            self.facts = _complete(facts, self.feature_count)
            self._column = self._probe(handle)
            self.cost = self._measure(handle)
        except (Unusable, ModelFailed) as error:
            raise ModelRejected(str(error)) from error
        except UnicodeDecodeError as error:
            raise ModelRejected("a name or a metadata text in it is not UTF-8") from error

    def score(self, rows: Rows, handle: RunHandle | None = None) -> Probabilities:
        """The class's probability of each of `rows` [n, k], as float32 [n].

        Raises ModelFailed, also when an answer is no probability, and Cancelled when `handle`
        stopped the run.
        """
        result = self.raw_scores(rows, handle)
        if not are_probabilities(result):
            row = int(np.flatnonzero(~((result >= -1e-4) & (result <= 1.0001)))[0])
            raise ModelFailed(f"the model answered {result[row]} for row {row}: no probability")
        return result

    def raw_scores(self, rows: Rows, handle: RunHandle | None = None) -> Probabilities:
        """As `score`, but answers that are no probabilities are left for the caller to judge."""
        return _cast(self._run(rows, handle)[:, self._column], _SINGLE)

    def close(self) -> None:
        """Free the model, and hand its memory back to the machine."""
        del self._session
        gc.collect()
        _trim()

    def _run(self, rows: Rows, handle: RunHandle | None = None) -> np.ndarray:
        feed = {self._input.name: _cast(rows, self._dtype)}
        options = handle._options if handle is not None else None
        try:
            (result,) = self._session.run([self._output.name], feed, options)
        except Exception as error:  # ONNX Runtime raises classes of its own and plain ones.
            if options is not None and options.terminate:
                raise Cancelled("the run was stopped: nobody waits for it any more") from error
            raise ModelFailed(f"the model could not be run: {_first_line(error)}") from error
        return np.asarray(result)

    def _probe(self, handle: RunHandle | None) -> int:
        """Run a few rows; the answer is the column of the class."""
        rows = _probe_rows(self.feature_count, self.facts.sample)
        self._check_shape(self._run(rows[:1], handle), 1)
        result = self._run(rows, handle)
        self._check_shape(result, len(rows))
        usable = result[np.isfinite(result).all(axis=1)].astype(np.float64)
        if not len(usable):
            raise Unusable(f"output {self._output.name!r} is NaN or infinite for every row tried")
        if not are_probabilities(_cast(usable, _SINGLE)):
            low, high = usable.min(), usable.max()
            text = f"output {self._output.name!r} ranges from {low:g} to {high:g}"
            raise Unusable(f"{text}; probabilities lie in [0, 1]")
        return self._positive_column(usable)

    def _check_shape(self, result: np.ndarray, row_count: int) -> None:
        if result.ndim != 2 or result.shape[0] != row_count or result.shape[1] not in (1, 2):
            shape = f"{list(result.shape)} for {row_count} rows"
            text = f"output {self._output.name!r} has shape {shape}"
            raise Unusable(f"{text}; a binary classifier's is [n, 1] or [n, 2]")

    def _positive_column(self, result: np.ndarray) -> int:
        column = self.facts.positive_column
        if result.shape[1] == 1:
            if column not in (None, 0):
                text = f"positive column {column} does not exist"
                raise Unusable(f"{text}: output {self._output.name!r} has one column; use 0")
            return 0
        if np.abs(result.sum(axis=1) - 1).max() > _SUM_SLACK:
            text = f"the two columns of output {self._output.name!r} do not add up to 1"
            raise Unusable(f"{text}: they are not a class and its complement")
        if column is None:
            text = (
                f"which of the two columns of output {self._output.name!r} is the class is not said"
            )
            raise Unusable(f"{text}: give --positive-column, or positive_column beside the model")
        return column

    def _measure(self, handle: RunHandle | None) -> Cost:
        """The best of three runs of one row and of many."""
        many = np.tile(_probe_rows(self.feature_count, self.facts.sample), (8, 1))
        best = []
        for rows in (many[:1], many):
            spent = []
            for _ in range(3):
                started = perf_counter()
                self._run(rows, handle)
                spent.append(perf_counter() - started)
            best.append(min(spent))
        row_s = max(0.0, (best[1] - best[0]) / (len(many) - 1))
        return Cost(fixed_s=best[0], row_s=row_s)


def _open(artifact: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # An arena keeps what it took; a predictor must give a model's memory back.
    options.enable_cpu_mem_arena = False
    # Idle threads that spin would take the cores from the other predictors.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            artifact, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime raises classes of its own and plain ones.
        raise Unusable(f"ONNX Runtime cannot open it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _the_input(inputs: Sequence[ort.NodeArg], facts: Facts) -> tuple[ort.NodeArg, int]:
    """The one input, and how many features it takes."""
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise Unusable(f"it has {len(inputs)} inputs ({names}); one matrix [n, features] is wanted")
    (only,) = inputs
    if only.type not in _DTYPES:
        raise Unusable(
            f"input {only.name!r} is a {only.type}; one of {', '.join(_DTYPES)} is wanted"
        )
    if len(only.shape) != 2:
        raise Unusable(f"input {only.name!r} has shape {only.shape}; [n, features] is wanted")
    if isinstance(only.shape[0], int):
        text = f"input {only.name!r} takes exactly {only.shape[0]} rows at a time"
        raise Unusable(f"{text}; export the model with a dynamic first dimension")
    said = len(facts.feature_names) or len(facts.sample)
    wanted = only.shape[1] if isinstance(only.shape[1], int) else said
    if not wanted:
        text = f"input {only.name!r} does not say how many features it takes"
        raise Unusable(f"{text}: give feature_names or a sample in the file beside the model")
    if wanted > _MAX_FEATURES:
        raise Unusable(
            f"input {only.name!r} takes {wanted} features; at most {_MAX_FEATURES} can be"
        )
    return only, wanted


def _the_output(outputs: Sequence[ort.NodeArg], wanted: str) -> ort.NodeArg:
    """The output that holds the probabilities."""
    if wanted:
        named = [each for each in outputs if each.name == wanted]
        if not named:
            there = ", ".join(each.name for each in outputs)
            raise Unusable(f"there is no output {wanted!r}; there are {there}")
        if named[0].type not in _DTYPES:
            raise Unusable(f"output {wanted!r} is a {named[0].type}; probabilities are floats")
        return named[0]
    fitting = [each for each in outputs if each.type in _DTYPES and _may_be_binary(each.shape)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(each.name for each in fitting)
        raise Unusable(f"outputs {names} could all be the probabilities: give --output-name")
    there = ", ".join(f"{each.name} {each.type} {each.shape}" for each in outputs)
    text = "no output can hold a binary classifier's probabilities, a float tensor [n, 1] or [n, 2]"
    raise Unusable(f"{text}; there are: {there}")


def _may_be_binary(shape: Sequence[int | str | None]) -> bool:
    return len(shape) in (0, 2) and (
        len(shape) == 0 or not isinstance(shape[1], int) or shape[1] in (1, 2)
    )


def _complete(facts: Facts, feature_count: int) -> Facts:
    """The facts, if they are enough and fit the graph."""
    if not facts.class_label:
        text = "which class it recognises is not said"
        raise Unusable(f"{text}: give --class-label, or class_label beside the model")
    if facts.class_labels and facts.class_label not in facts.class_labels:
        text = f"class {facts.class_label!r} is none of its ensemble's: "
        raise Unusable(text + ", ".join(facts.class_labels))
    for what, given in (("feature_names", facts.feature_names), ("sample", facts.sample)):
        if given and len(given) != feature_count:
            raise Unusable(f"{what} has {len(given)} entries; the model takes {feature_count}")
    return facts


def _probe_rows(feature_count: int, sample: Sequence[float]) -> Rows:
    """Rows that most models can score: positive, of a few sizes, and the sample if there is one."""
    count = max(2, min(_PROBE_ROWS, _MAX_FEATURES // feature_count))
    # Multiples of an irrational number spread evenly; numpy.random would take 2 MB to import.
    spread = np.arange(1, count * feature_count + 1) * _GOLDEN_RATIO % 1
    rows = (0.1 + 0.9 * spread).astype(np.float32).reshape(count, feature_count)
    rows *= np.geomspace(0.1, 100, count, dtype=np.float32)[:, None]
    if sample:
        rows[0] = sample
    return rows


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values` as `dtype`; what is too large for it becomes infinite, without a warning."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype)


_trim_lock = threading.Lock()


def _trim() -> None:
    """Ask the C library to hand free memory back; only glibc keeps it and has the call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    with _trim_lock:
        trim(0)
