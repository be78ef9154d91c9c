"""Opens artifacts with ONNX Runtime, which no other module uses, and scores rows.

What is opened is a binary classifier of numbers, [n, k] in one input or several, whose
probabilities are a tensor [n, 2], [n, 1] or [n], or ZipMap's sequence of maps. ZipMap is cut out of
the graph on opening: it costs as much as the model itself, and its map is walked in Python.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import onnxruntime as ort

from trillium.errors import Cancelled, ModelFailed, ModelRejected
from trillium.model.declared import DeclaredFacts, from_metadata
from trillium.rows import Probabilities, Rows, are_probabilities

from .columns import check_column_is_of_class, with_column_of_key
from .feed import cast, names_of_inputs, the_feed
from .graph import Unusable, check_self_contained, without_zipmap
from .signature import (
    check_facts,
    check_missing,
    check_shape,
    class_column,
    the_output,
    with_missing,
)

_SINGLE = np.dtype(np.float32)

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
        """Expected seconds of a run of `row_count` rows."""
        return self.fixed_s + row_count * self.row_s


class Classifier:
    """An open model. Not used after `close`; safe to run from several threads."""

    def __init__(
        self,
        artifact: bytes,
        declared: DeclaredFacts,
        *,
        threads: int = 1,
        handle: RunHandle | None = None,
    ) -> None:
        """Open, check and warm up; `declared` overrides what the artifact declares.

        Takes as long as the model needs for a few runs; `handle` stops them. Raises ModelRejected
        with the reason, and Cancelled.
        """
        try:
            check_self_contained(artifact)
            self._session = _open(artifact, threads)
            metadata = self._session.get_modelmeta().custom_metadata_map
            facts, self.metadata = from_metadata(metadata)
            check_column_is_of_class(facts, declared)
            facts = facts.overridden_by(declared)
            self.inferred = ""
            if any(output.type.startswith("seq(map") for output in self._session.get_outputs()):
                artifact, keys = without_zipmap(artifact, facts.output_name)
                facts, self.inferred = with_column_of_key(facts, keys)
                self._session = _open(artifact, threads)
            inputs = self._session.get_inputs()
            self._feed = the_feed(inputs, facts)
            self._has_whole = self._feed.has_whole
            self.feature_count, self.input_dtype = self._feed.feature_count, self._feed.dtype
            if not facts.feature_names:
                names = names_of_inputs(inputs, self._feed)
                facts = facts.overridden_by(DeclaredFacts(feature_names=names))
            self._output = the_output(self._session.get_outputs(), facts.output_name)
            check_facts(facts, self.feature_count)
            self.facts = facts
            self._column = self._probe(handle)
            self.cost = self._measure(handle)
        except (Unusable, ModelFailed) as error:
            raise ModelRejected(str(error)) from error
        except UnicodeDecodeError as error:
            raise ModelRejected("a name or a metadata text in it is not UTF-8") from error

    def score(self, rows: Rows, handle: RunHandle | None = None) -> Probabilities:
        """The class's probability of each of `rows` [n, k], as float32 [n].

        Raises ModelFailed, also for a value that is no probability, and Cancelled if `handle`
        stopped the run.
        """
        result = self.raw_scores(rows, handle)
        if not are_probabilities(result):
            row = int(np.flatnonzero(~((result >= -1e-4) & (result <= 1.0001)))[0])
            raise ModelFailed(f"the model returned {result[row]} for row {row}: no probability")
        return result

    def raw_scores(self, rows: Rows, handle: RunHandle | None = None) -> Probabilities:
        """As `score`, but the caller checks whether the values are probabilities."""
        return cast(self._run(rows, handle)[:, self._column], _SINGLE)

    def close(self) -> None:
        """Free the model, and return its memory to the system."""
        del self._session
        gc.collect()
        _trim()

    def _run(self, rows: Rows, handle: RunHandle | None = None) -> np.ndarray:
        options = handle._options if handle is not None else None
        outputs = [self._output.name]
        found = []
        try:
            for tensors, count in self._feed.tensors(rows):
                (result,) = self._session.run(outputs, tensors, options)
                result = np.asarray(result)
                # What squeezes its last axis away, or has an output for each class, has one column.
                column = result[:, np.newaxis] if result.ndim == 1 else result
                found.append(column[:count] if self._feed.batch and column.ndim else column)
        except Exception as error:  # ONNX Runtime raises classes of its own and plain ones.
            if options is not None and options.terminate:
                raise Cancelled("the run was stopped: nobody waits for it any longer") from error
            raise ModelFailed(f"the model could not be run: {_first_line(error)}") from error
        whole = found[0] if len(found) == 1 else np.concatenate(found)
        if not self._has_whole:
            return whole
        if (unfit := self._feed.unfit(rows)) is not None and len(whole) == len(rows):
            # Such a row has no probability, as others of its call have.
            whole = whole.astype(np.float64)
            whole[unfit] = np.nan
        return whole

    def _probe(self, handle: RunHandle | None) -> int:
        """Run a few rows; returns the column of the class."""
        rows = self._feed.probe_rows(self.facts.sample)
        check_shape(self._run(rows[:1], handle), 1, self._output.name)
        result = self._run(rows, handle)
        check_shape(result, len(rows), self._output.name)
        if self.facts.takes_missing:
            check_missing(self._run(with_missing(rows), handle), self._output.name)
        return class_column(result, self.facts.positive_column, self._output.name)

    def _measure(self, handle: RunHandle | None) -> Cost:
        """The best of three runs of one row and of many."""
        many = np.tile(self._feed.probe_rows(self.facts.sample), (8, 1))
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
    # An arena keeps its memory; a predictor must return that of an unloaded model.
    options.enable_cpu_mem_arena = False
    # Idle threads that spin would slow down the other predictors on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            artifact, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime raises classes of its own and plain ones.
        raise Unusable(f"ONNX Runtime cannot open it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


_trim_lock = threading.Lock()


def _trim() -> None:
    """Have the C library return free memory; only glibc keeps it and has the call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    with _trim_lock:
        trim(0)
