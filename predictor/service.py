"""PredictorService: messages to arrays and back, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator

from predictor.host import ModelHost
from predictor.onnx import RunHandle
from predictor.stream import StreamInbox
from trillium.clock import Clock
from trillium.errors import Cancelled, InternalError, ModelFailed, TrilliumError
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.rows import Block, are_probabilities, from_block
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, stream_stream, unary_unary
from trillium.rpc.status import to_status
from trillium.tensor.v1 import tensor_pb2

PREDICTOR_SERVICE = "trillium.predictor.v1.PredictorService"

log = logging.getLogger(__name__)


class PredictorServicer:
    """Scores rows with the host's model."""

    def __init__(self, host: ModelHost, *, clock: Clock, max_rows: int) -> None:
        self._host = host
        self._clock = clock
        self._max_rows = max_rows

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            PREDICTOR_SERVICE,
            (
                unary_unary("Predict", pb.PredictRequest, self._predict),
                stream_stream("PredictStream", pb.PredictStreamRequest, self._predict_stream),
            ),
        )

    async def _predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model = self._host.model
        block = self._block(request.matrix, model.description.feature_count)
        with model:
            scores = await self._host.score(model, block, call.deadline)
        if not are_probabilities(scores):
            raise ModelFailed("the model answered values that are no probabilities")
        digest = model.description.digest
        return pb.PredictResponse(probabilities=scores.tobytes(), model_digest=digest)

    async def _predict_stream(
        self, requests: AsyncIterator[pb.PredictStreamRequest], call: Call
    ) -> AsyncGenerator[pb.PredictStreamResponse]:
        model = self._host.model
        inbox = StreamInbox(requests, model, self._clock)

        async def answer(
            request: pb.PredictStreamRequest, deadline: float
        ) -> pb.PredictStreamResponse:
            block = self._block(request.matrix, model.description.feature_count)
            handle = None
            if not model.is_quick(block.row_count):
                handle = RunHandle()
                inbox.running(request, handle)
            scores = await self._host.score(model, block, deadline, handle)
            number = request.request_number
            return pb.PredictStreamResponse(request_number=number, probabilities=scores.tobytes())

        try:
            while (held := await inbox.next()) is not None:
                request, deadline = held
                try:
                    if inbox.was_taken_back(request):
                        raise Cancelled("withdrawn before it was run")
                    response = await answer(request, deadline)
                except TrilliumError as error:
                    response = _failed(request, error)
                except Exception:
                    log.exception("a streamed request failed")
                    response = _failed(request, InternalError())
                finally:
                    inbox.done(request)
                if request.request_ids:
                    self._trace(request, response)
                yield response
                # Not to be kept until the next one comes.
                del held, request, response
        finally:
            inbox.close()

    def _block(self, matrix: tensor_pb2.Float32Matrix, feature_count: int) -> Block:
        return from_block(
            matrix.row_count,
            matrix.column_count,
            matrix.data,
            feature_count=feature_count,
            max_rows=self._max_rows,
        )

    @staticmethod
    def _trace(request: pb.PredictStreamRequest, response: pb.PredictStreamResponse) -> None:
        """Log the calls whose callers chose their request id."""
        failed = response.WhichOneof("outcome") == "error"
        outcome = response.error.message if failed else "OK"
        for request_id in request.request_ids:
            facts = {"request_id": request_id, "rows": request.matrix.row_count, "outcome": outcome}
            log.info("predicted", extra=facts)


def _failed(request: pb.PredictStreamRequest, error: TrilliumError) -> pb.PredictStreamResponse:
    return pb.PredictStreamResponse(
        request_number=request.request_number, error=to_status(error, *request.request_ids[:1])
    )
