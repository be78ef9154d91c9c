"""AggregatorService: messages to arrays and back, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.errors import (
    InvalidRequest,
    NoSample,
    TrilliumError,
    Violation,
    quoted,
)
from trillium.rows import (
    WIRE_DTYPE,
    Block,
    Probabilities,
    from_block,
    from_lists,
)
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.rpc.status import duration, missing_class, to_status
from trillium.rpc.streams import answer_requests
from trillium.tensor.v1 import tensor_pb2
from trillium.violations import Violations

from .combine import decide
from .ensemble import Ensemble
from .ensembles import ServedEnsembles
from .instances import read_instances, write_classifications, write_predictions
from .plan import ServingPlan
from .plans.roster import LinkState, RosterEntry

AGGREGATOR_SERVICE = "trillium.aggregator.v1.AggregatorService"

T = TypeVar("T")

LONGEST_TIMEOUT_S = 315_576_000_000
"""The longest google.protobuf.Duration."""

_STATES = {
    LinkState.CONNECTING: pb.PREDICTOR_STATE_CONNECTING,
    LinkState.READY: pb.PREDICTOR_STATE_READY,
    LinkState.UNAVAILABLE: pb.PREDICTOR_STATE_UNAVAILABLE,
    LinkState.MISMATCHED: pb.PREDICTOR_STATE_MISMATCHED,
}


class AggregatorServicer:
    """Answers for all ensembles."""

    def __init__(self, ensembles: ServedEnsembles) -> None:
        self._ensembles = ensembles
        self.draining = asyncio.Event()
        """Set when the server is about to stop: streams then take no more requests."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["AggregatorService"],
            {
                "Predict": self._predict,
                "Classify": self._classify,
                "PredictSample": self._predict_sample,
                "GetMetadata": self._get_metadata,
                "ListEnsembles": self._list_ensembles,
                "ListPredictors": self._list_predictors,
                "PredictStream": self._predict_stream,
            },
        )

    async def _predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        return await self._predict_within(None, request, call, Violations())

    async def _predict_within(
        self,
        timeout_s: float | None,
        request: pb.PredictRequest,
        call: Call,
        violations: Violations,
    ) -> pb.PredictResponse:
        """Answer `request`, of which `violations` were found already."""
        ensemble = self._ensembles.asked(request.ensemble, violations)
        plan = ensemble.plan(request.revision, call.sticky_key)
        labels = violations.check(lambda: _chosen(request.class_labels, plan.class_labels))
        block = violations.check(lambda: _rows(request, plan))
        violations.raise_any()
        assert block is not None
        assert labels is not None
        scores = await plan.scores(block, labels, call, timeout_s, partial=request.allow_partial)
        response = pb.PredictResponse(
            ensemble=ensemble.name,
            revision=plan.revision,
            class_labels=scores.class_labels,
            degraded=bool(scores.failures),
            missing=[missing_class(failure) for failure in scores.failures],
        )
        if request.instances:
            write_predictions(response, scores.probabilities)
        else:
            response.probabilities.CopyFrom(_packed(scores.probabilities))
        return response

    async def _classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        violations = Violations()
        ensemble = self._ensembles.asked(request.ensemble, violations)
        plan = ensemble.plan(request.revision, call.sticky_key)
        block = violations.check(lambda: _rows(request, plan))
        violations.raise_any()
        assert block is not None
        order = plan.class_labels
        scores = await plan.scores(block, order, call, partial=request.allow_partial)
        labels = decide(scores, order)
        plan.figures.decided(labels, scores.class_labels)
        response = pb.ClassifyResponse(
            ensemble=ensemble.name,
            revision=plan.revision,
            class_labels=scores.class_labels,
            degraded=bool(scores.failures),
            missing=[missing_class(failure) for failure in scores.failures],
        )
        if request.instances:
            with_all = request.include_probabilities
            write_classifications(response, scores, labels, with_all=with_all)
        else:
            response.packed.label_indexes.extend(labels.indexes.tolist())
            response.packed.label_probabilities.extend(labels.probabilities.tolist())
            if request.include_probabilities:
                response.packed.probabilities.CopyFrom(_packed(scores.probabilities))
        return response

    async def _predict_sample(
        self, request: pb.PredictSampleRequest, call: Call
    ) -> pb.PredictSampleResponse:
        plan = self._ensembles.chosen(request.ensemble).plan(request.revision, call.sticky_key)
        sample = plan.metadata.sample
        if not sample:
            raise NoSample("the models carry no sample row; send one with Predict or Classify")
        block = from_lists([sample], feature_count=None, max_rows=1)
        order = plan.class_labels
        scores = await plan.scores(block, order, call)
        labels = decide(scores, order)
        plan.figures.decided(labels, scores.class_labels)
        return pb.PredictSampleResponse(
            revision=plan.revision,
            features=sample,
            class_labels=scores.class_labels,
            probabilities=scores.probabilities[0].tolist(),
            label=scores.class_labels[labels.indexes[0]],
        )

    async def _get_metadata(
        self, request: pb.GetMetadataRequest, call: Call
    ) -> pb.GetMetadataResponse:
        ensemble = self._ensembles.chosen(request.ensemble)
        plan = ensemble.plan(request.revision, call.sticky_key)
        known = plan.metadata
        labels = plan.class_labels
        limits = plan.limits
        return pb.GetMetadataResponse(
            ensemble=known.ensemble or ensemble.name,
            revision=plan.revision,
            class_labels=labels,
            feature_names=known.feature_names,
            feature_count=known.feature_count,
            dtype="FP32",
            input_shape=[-1, known.feature_count],
            output_shape=[-1, len(labels)],
            sample=known.sample,
            max_row_count=limits.max_rows,
            max_message_bytes=limits.max_message_bytes,
            default_timeout=duration(limits.default_timeout_s),
            takes_missing=known.takes_missing,
        )

    async def _list_predictors(
        self, request: pb.ListPredictorsRequest, call: Call
    ) -> pb.ListPredictorsResponse:
        name = request.ensemble
        chosen = (self._ensembles.chosen(name),) if name else self._ensembles.all()
        return pb.ListPredictorsResponse(
            predictors=[
                _predictor(entry, ensemble.name, plan.revision)
                for ensemble in chosen
                for plan in ensemble.plans
                for entry in plan.roster.entries
            ]
        )

    async def _list_ensembles(
        self, request: pb.ListEnsemblesRequest, call: Call
    ) -> pb.ListEnsemblesResponse:
        return pb.ListEnsemblesResponse(
            ensembles=[_summary(each) for each in self._ensembles.all()]
        )

    async def _predict_stream(
        self, requests: AsyncIterator[pb.PredictStreamRequest], call: Call
    ) -> AsyncGenerator[pb.PredictStreamResponse]:
        async def answer(request: pb.PredictStreamRequest) -> pb.PredictStreamResponse:
            number = request.request_number
            violations = Violations()
            timeout_s = violations.check(lambda: _timeout_s(request))
            try:
                response = await self._predict_within(timeout_s, request.request, call, violations)
            except TrilliumError as error:
                status = to_status(error, call.request_id)
                return pb.PredictStreamResponse(request_number=number, error=status)
            return pb.PredictStreamResponse(request_number=number, response=response)

        answers = answer_requests(requests, answer, self.draining, in_order=False)
        async with aclosing(answers):
            async for response in answers:
                yield response


def _chosen(asked: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The classes to ask, in metadata order."""
    if not asked:
        return known
    violations = Violations()
    violations.extend(_wrong_labels(asked, known))
    violations.raise_any()
    chosen = set(asked)
    return [label for label in known if label in chosen]


def _summary(ensemble: Ensemble) -> pb.EnsembleSummary:
    shares = dict(ensemble.shares)
    plans = ensemble.plans
    return pb.EnsembleSummary(
        name=ensemble.name,
        class_labels=plans[0].class_labels if plans else (),
        ready=ensemble.is_ready,
        revisions=[
            pb.RevisionSummary(
                revision=plan.revision,
                percent=shares.get(plan.revision, 0),
                ready=plan.roster.all_ready(),
            )
            for plan in plans
            if plan.revision
        ],
    )


def _rows(request: pb.PredictRequest | pb.ClassifyRequest, plan: ServingPlan) -> Block:
    known = plan.roster.metadata
    max_rows = plan.limits.max_rows
    wanted = None if known is None else known.feature_count
    # Before any predictor is known, each one checks what it takes.
    missing = known is None or known.takes_missing
    packed = request.HasField("matrix")
    if packed and request.instances:
        raise InvalidRequest.of("matrix", "cannot be combined with instances; send one")
    if packed:
        matrix = request.matrix
        return from_block(
            matrix.row_count,
            matrix.column_count,
            matrix.data,
            feature_count=wanted,
            max_rows=max_rows,
            takes_missing=missing,
        )
    return read_instances(request, feature_count=wanted, max_rows=max_rows, takes_missing=missing)


def _wrong_labels(asked: Sequence[str], known: Sequence[str]) -> Iterator[Violation]:
    there, seen = set(known), set[str]()
    for index, label in enumerate(asked):
        if label not in there:
            text = f"is {quoted(label)}; known classes: {', '.join(known)}"
            yield Violation(f"class_labels[{index}]", text)
        elif label in seen:
            text = f"is {label!r} again; each class at most once"
            yield Violation(f"class_labels[{index}]", text)
        seen.add(label)


def _timeout_s(request: pb.PredictStreamRequest) -> float | None:
    if not request.HasField("timeout"):
        return None
    timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
    if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        text = f"is {timeout_s:g} s; expected more than 0 and at most {LONGEST_TIMEOUT_S} s"
        raise InvalidRequest.of("timeout", text)
    return timeout_s


def _packed(matrix: Probabilities) -> tensor_pb2.Float32Matrix:
    rows, columns = matrix.shape
    data = matrix.astype(WIRE_DTYPE, copy=False).tobytes()
    return tensor_pb2.Float32Matrix(row_count=rows, column_count=columns, data=data)


def _predictor(entry: RosterEntry, ensemble: str, revision: int) -> pb.Predictor:
    message = pb.Predictor(
        class_label=entry.endpoint.class_label,
        address=entry.endpoint.address,
        state=_STATES[entry.state],
        model_digest="" if entry.described is None else entry.described.digest,
        detail=entry.detail,
        ensemble=ensemble,
        revision=revision,
    )
    message.state_time.FromDatetime(entry.since)
    return message
