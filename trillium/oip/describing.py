"""The inputs, outputs and statistics of a model as messages."""

from __future__ import annotations

from collections.abc import Sequence

from trillium.oip import open_inference_pb2 as pb
from trillium.oip.model import INPUT, LABEL, PROBABILITIES, ServedModel
from trillium.server.statistics import Spent, Statistics

_ANY = -1
"""Stands for the number of rows."""


def metadata(model: ServedModel) -> pb.ModelMetadataResponse:
    """The response of ModelMetadata."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=model.versions,
        platform=model.platform,
        inputs=[tensor(name=INPUT, datatype="FP32", shape=[_ANY, model.feature_count])],
        outputs=[
            tensor(
                name=name,
                datatype="BYTES" if name == LABEL else "FP32",
                shape=[_ANY, *_row_shape(model, name)],
            )
            for name in model.outputs
        ],
    )


def config(model: ServedModel) -> pb.ModelConfig:
    """The model's configuration."""
    return pb.ModelConfig(
        name=model.name,
        platform=model.platform,
        max_batch_size=model.max_rows,
        input=[pb.ModelInput(name=INPUT, data_type=pb.TYPE_FP32, dims=[model.feature_count])],
        output=[
            pb.ModelOutput(
                name=name,
                data_type=pb.TYPE_STRING if name == LABEL else pb.TYPE_FP32,
                dims=_row_shape(model, name),
            )
            for name in model.outputs
        ],
        dynamic_batching=pb.ModelDynamicBatching(),
    )


def statistics(model: ServedModel, done: Statistics) -> pb.ModelStatistics:
    """The model's statistics."""
    return pb.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=0 if done.last is None else int(done.last.timestamp() * 1000),
        inference_count=done.row_count,
        execution_count=done.run_count,
        inference_stats=pb.InferStatistics(
            success=_duration(done.success),
            fail=_duration(done.fail),
            queue=_duration(done.queue),
            compute_input=_duration(done.read),
            compute_infer=_duration(done.run),
            compute_output=_duration(done.write),
        ),
    )


def _row_shape(model: ServedModel, output: str) -> Sequence[int]:
    return [len(model.class_labels)] if output == PROBABILITIES else []


def _duration(spent: Spent) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=spent.count, ns=spent.ns)
