"""PredictorService: messages to arrays and back, and nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator

from trillium.clock import Clock
from trillium.errors import Cancelled, InternalError, ModelFailed, TrilliumError
from trillium.predictor.v1 import predictor_service_pb2 as pb
from trillium.rows import Block, are_probabilities, from_block
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.rpc.status import to_status
from trillium.tensor.v1 import tensor_pb2

from .host import ModelHost
from .loaded import LoadedModel
from .onnx import RunHandle
from .stream import StreamInbox, StreamRequest, Withdrawal

PREDICTOR_SERVICE = "trillium.predictor.v1.PredictorService"

log = logging.getLogger(__name__)


class PredictorServicer:
    """Scores rows with the host's model."""

    def __init__(self, host: ModelHost, *, clock: Clock, max_rows: int) -> None:
        self._host = host
        self._clock = clock
        self._max_rows = max_rows

    def service(self) -> Service:
        """The gRPC service of these methods."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["PredictorService"],
            {
                "Predict": self._predict,
                "PredictStream": self._predict_stream,
            },
        )

    async def _predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model = self._host.model
        block = self._block(request.matrix, model)
        with model:
            scores = await self._host.score(model, block, call.deadline)
        if not are_probabilities(scores):
            raise ModelFailed("the model returned values that are no probabilities")
        digest = model.description.digest
        return pb.PredictResponse(probabilities=scores.tobytes(), model_digest=digest)

    async def _predict_stream(
        self, requests: AsyncIterator[pb.PredictStreamRequest], call: Call
    ) -> AsyncGenerator[pb.PredictStreamResponse]:
        model = self._host.model
        inbox = StreamInbox(model)
        async with inbox.reading(requests, self._parsed):
            while (request := await inbox.next()) is not None:
                response = await self._response(request, inbox, model)
                if request.request_ids:
                    _trace(request, response)
                yield response
                # Must not be kept alive until the next one comes.
                del request, response

    async def _response(
        self, request: StreamRequest, inbox: StreamInbox, model: LoadedModel
    ) -> pb.PredictStreamResponse:
        try:
            if inbox.is_withdrawn(request):
                raise Cancelled("withdrawn before it was run")
            block = self._block(request, model)
            handle = RunHandle()
            inbox.running(request, handle)
            scores = await self._host.score(model, block, request.deadline, handle)
        except TrilliumError as error:
            return _failed(request, error)
        except Exception:
            log.exception("a streamed request failed")
            return _failed(request, InternalError())
        finally:
            inbox.done(request)
        return pb.PredictStreamResponse(
            request_number=request.number,
            probabilities=scores.tobytes(),
            run_us=round((self._clock.monotonic() - request.arrived) * 1e6),
        )

    def _parsed(self, message: pb.PredictStreamRequest) -> StreamRequest | Withdrawal:
        if message.WhichOneof("action") == "cancel":
            return Withdrawal(message.request_number)
        timeout_us, now = message.timeout_us, self._clock.monotonic()
        return StreamRequest(
            number=message.request_number,
            row_count=message.matrix.row_count,
            column_count=message.matrix.column_count,
            data=message.matrix.data,
            deadline=now + timeout_us / 1e6 if timeout_us else math.inf,
            request_ids=tuple(message.request_ids),
            arrived=now,
        )

    def _block(self, matrix: StreamRequest | tensor_pb2.Float32Matrix, model: LoadedModel) -> Block:
        return from_block(
            matrix.row_count,
            matrix.column_count,
            matrix.data,
            feature_count=model.description.feature_count,
            max_rows=self._max_rows,
            takes_missing=model.description.takes_missing,
        )


def _trace(request: StreamRequest, response: pb.PredictStreamResponse) -> None:
    """Log the calls whose callers chose their request id."""
    failed = response.WhichOneof("outcome") == "error"
    outcome = response.error.message if failed else "OK"
    for request_id in request.request_ids:
        extra = {"request_id": request_id, "rows": request.row_count, "outcome": outcome}
        log.info("predicted", extra=extra)


def _failed(request: StreamRequest, error: TrilliumError) -> pb.PredictStreamResponse:
    return pb.PredictStreamResponse(
        request_number=request.number, error=to_status(error, *request.request_ids[:1])
    )
