"""Good and malformed requests, for a Triton server and for ours alike.

Both serve `iris`: one input `input` [n, 4], and `probabilities` [n, 3] and `label` [n] for it; at
most 10,000 rows in one request.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from trillium.oip import open_inference_pb2 as pb

SETOSA = (5.1, 3.5, 1.4, 0.2)
VERSICOLOR = (7.0, 3.2, 4.7, 1.4)
VIRGINICA = (6.3, 3.3, 6.0, 2.5)
FLOWERS = (SETOSA, VERSICOLOR, VIRGINICA)
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Case:
    """One call: its name, the RPC, and its request, or several for a stream."""

    name: str
    rpc: str
    requests: Sequence[Message | bytes]


def _case(name: str, rpc: str, *requests: Message | bytes) -> Case:
    return Case(name, rpc, requests)


def raw_rows(rows: Iterable[Sequence[float]]) -> bytes:
    """Rows as they stand in raw contents."""
    return b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)


def tensor(
    shape: Sequence[int] = (1, 4), name: str = "input", datatype: str = "FP32", **fields: Any
) -> pb.ModelInferRequest.InferInputTensor:
    """An input, without values unless `contents` are among the fields."""
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, **fields
    )


def typed(
    rows: Sequence[Sequence[float]], shape: Sequence[int] | None = None
) -> pb.ModelInferRequest.InferInputTensor:
    """An input whose values stand in `contents`."""
    values = [value for row in rows for value in row]
    contents = pb.InferTensorContents(fp32_contents=values)
    return tensor(shape or (len(rows), 4), contents=contents)


def wanted(name: str, **parameters: Any) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    """An output that is asked for."""
    return pb.ModelInferRequest.InferRequestedOutputTensor(
        name=name, parameters=_parameters(parameters)
    )


def _parameters(values: Mapping[str, Any]) -> dict[str, pb.InferParameter]:
    made = {}
    for name, value in values.items():
        if isinstance(value, pb.InferParameter):
            made[name] = value
        elif isinstance(value, bool):
            made[name] = pb.InferParameter(bool_param=value)
        elif isinstance(value, int):
            made[name] = pb.InferParameter(int64_param=value)
        else:
            made[name] = pb.InferParameter(string_param=value)
    return made


def infer(
    *inputs: pb.ModelInferRequest.InferInputTensor,
    raw: Sequence[bytes] = (),
    outputs: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor] = (),
    model: str = "iris",
    version: str = "",
    request_id: str = "",
    **parameters: Any,
) -> pb.ModelInferRequest:
    """A request to score."""
    return pb.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=request_id,
        inputs=inputs,
        outputs=outputs,
        raw_input_contents=raw,
        parameters=_parameters(parameters),
    )


def raw_infer(rows: Sequence[Sequence[float]] = FLOWERS, **fields: Any) -> pb.ModelInferRequest:
    """A sound request with raw contents, or one that is wrong in one field only."""
    return infer(tensor((len(rows), 4)), raw=[raw_rows(rows)], **fields)


_ABOUT_A_MODEL = {
    "ModelReady": pb.ModelReadyRequest,
    "ModelMetadata": pb.ModelMetadataRequest,
    "ModelConfig": pb.ModelConfigRequest,
    "ModelStatistics": pb.ModelStatisticsRequest,
}

ABOUT = (
    _case("server-live", "ServerLive", pb.ServerLiveRequest()),
    _case("server-ready", "ServerReady", pb.ServerReadyRequest()),
    _case("server-metadata", "ServerMetadata", pb.ServerMetadataRequest()),
    *(
        _case(f"{rpc}-{what}", rpc, kind(name=name, version=version))
        for rpc, kind in _ABOUT_A_MODEL.items()
        for what, name, version in (
            ("sound", "iris", ""),
            ("version-1", "iris", "1"),
            ("version-2", "iris", "2"),
            ("version-no-number", "iris", "one"),
            ("version-0", "iris", "0"),
            ("version-negative", "iris", "-1"),
            ("version-fraction", "iris", "1.0"),
            ("unknown", "tulips", ""),
            ("unknown-version-no-number", "tulips", "one"),
            ("no-name", "", ""),
        )
    ),
    _case("index", "RepositoryIndex", pb.RepositoryIndexRequest()),
    _case("index-ready", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True)),
)

SOUND = (
    _case("raw-one-row", "ModelInfer", raw_infer([SETOSA])),
    _case("raw-rows", "ModelInfer", raw_infer()),
    _case("typed-one-row", "ModelInfer", infer(typed([VIRGINICA]))),
    _case("typed-rows", "ModelInfer", infer(typed(FLOWERS))),
    _case("id-and-version", "ModelInfer", raw_infer(version="1", request_id="seven")),
    _case(
        "both-outputs-turned",
        "ModelInfer",
        raw_infer(outputs=[wanted("label"), wanted("probabilities")]),
    ),
    _case("only-label", "ModelInfer", raw_infer(outputs=[wanted("label")])),
    _case("only-probabilities", "ModelInfer", raw_infer(outputs=[wanted("probabilities")])),
    _case("typed-only-label", "ModelInfer", infer(typed([SETOSA]), outputs=[wanted("label")])),
    *(
        _case(
            f"classification-{count}",
            "ModelInfer",
            raw_infer(outputs=[wanted("probabilities", classification=count)]),
        )
        for count in (1, 2, 3, 9)
    ),
    _case(
        "classification-typed",
        "ModelInfer",
        infer(typed([SETOSA]), outputs=[wanted("probabilities", classification=2)]),
    ),
    _case(
        "classification-and-label",
        "ModelInfer",
        raw_infer(outputs=[wanted("probabilities", classification=1), wanted("label")]),
    ),
    _case("timeout", "ModelInfer", raw_infer(timeout=5_000_000)),
    _case("timeout-0", "ModelInfer", raw_infer(timeout=0)),
    _case("priority", "ModelInfer", raw_infer(priority=pb.InferParameter(uint64_param=1))),
    _case("priority-int64", "ModelInfer", raw_infer(priority=1)),
    _case("unknown-parameter", "ModelInfer", raw_infer(colour="red")),
    _case("sequence", "ModelInfer", raw_infer(sequence_id=7, sequence_start=True)),
    _case(
        "output-binary-data", "ModelInfer", raw_infer(outputs=[wanted("label", binary_data=True)])
    ),
)

MALFORMED = (
    _case("no-message", "ModelInfer", b"\xff\xff\xff"),
    _case("unknown-model", "ModelInfer", raw_infer(model="tulips")),
    _case("no-model-name", "ModelInfer", raw_infer(model="")),
    _case("version-2", "ModelInfer", raw_infer(version="2")),
    _case("version-no-number", "ModelInfer", raw_infer(version="one")),
    _case("no-inputs", "ModelInfer", infer()),
    _case("raw-without-inputs", "ModelInfer", infer(raw=[raw_rows([SETOSA])])),
    _case("two-inputs", "ModelInfer", infer(typed([SETOSA]), tensor(name="more"))),
    _case("input-twice", "ModelInfer", infer(typed([SETOSA]), typed([SETOSA]))),
    _case(
        "input-name-unknown",
        "ModelInfer",
        infer(tensor(name="X"), raw=[raw_rows([SETOSA])]),
    ),
    _case("input-name-empty", "ModelInfer", infer(tensor(name=""), raw=[raw_rows([SETOSA])])),
    *(
        _case(
            f"datatype-{datatype or 'empty'}",
            "ModelInfer",
            infer(tensor(datatype=datatype), raw=[b"\0" * size * 4]),
        )
        for datatype, size in (("INT32", 4), ("FP64", 8), ("FP16", 2), ("FLOAT", 4), ("", 4))
    ),
    *(
        _case(
            f"shape-{'x'.join(map(str, shape)) or 'empty'}",
            "ModelInfer",
            infer(tensor(shape), raw=[b"\0" * 4 * size]),
        )
        for shape, size in (
            ((4,), 4),
            ((1, 3), 3),
            ((1, 5), 5),
            ((1, 4, 1), 4),
            ((0, 4), 0),
            ((-1, 4), 4),
            ((1, -4), 4),
            ((), 1),
            ((10_001, 4), 40_004),
            ((2**62, 4), 4),
        )
    ),
    _case("raw-too-short", "ModelInfer", infer(tensor(), raw=[b"\0" * 12])),
    _case("raw-too-long", "ModelInfer", infer(tensor(), raw=[b"\0" * 20])),
    _case("raw-empty", "ModelInfer", infer(tensor(), raw=[b""])),
    _case("raw-odd", "ModelInfer", infer(tensor(), raw=[b"\0" * 15])),
    _case("raw-one-too-many", "ModelInfer", infer(tensor(), raw=[raw_rows([SETOSA])] * 2)),
    _case("nothing-given", "ModelInfer", infer(tensor())),
    _case("raw-and-typed", "ModelInfer", infer(typed([SETOSA]), raw=[raw_rows([SETOSA])])),
    _case("typed-too-few", "ModelInfer", infer(typed([SETOSA[:3]], (1, 4)))),
    _case("typed-too-many", "ModelInfer", infer(typed(FLOWERS, (1, 4)))),
    _case(
        "typed-in-another-field",
        "ModelInfer",
        infer(tensor(contents=pb.InferTensorContents(int_contents=[5, 3, 1, 0]))),
    ),
    _case(
        "typed-in-two-fields",
        "ModelInfer",
        infer(
            tensor(contents=pb.InferTensorContents(int_contents=[5, 3, 1, 0], fp32_contents=SETOSA))
        ),
    ),
    _case("not-a-number", "ModelInfer", raw_infer([(NAN, *SETOSA[1:])])),
    _case("output-unknown", "ModelInfer", raw_infer(outputs=[wanted("colour")])),
    _case("output-empty", "ModelInfer", raw_infer(outputs=[wanted("")])),
    _case("output-twice", "ModelInfer", raw_infer(outputs=[wanted("label")] * 2)),
    *(
        _case(
            f"classification-{name}",
            "ModelInfer",
            raw_infer(outputs=[wanted("probabilities", classification=value)]),
        )
        for name, value in (("0", 0), ("negative", -1), ("text", "2"))
    ),
    _case(
        "classification-of-label",
        "ModelInfer",
        raw_infer(outputs=[wanted("label", classification=1)]),
    ),
    _case("timeout-text", "ModelInfer", raw_infer(timeout="soon")),
    _case("timeout-negative", "ModelInfer", raw_infer(timeout=-1)),
    _case("priority-text", "ModelInfer", raw_infer(priority="high")),
    _case(
        "input-shared-memory",
        "ModelInfer",
        infer(
            tensor(
                parameters=_parameters({"shared_memory_region": "r", "shared_memory_byte_size": 16})
            )
        ),
    ),
    _case(
        "output-shared-memory",
        "ModelInfer",
        raw_infer(outputs=[wanted("label", shared_memory_region="r", shared_memory_byte_size=16)]),
    ),
)

STREAMS = (
    _case(
        "stream", "ModelStreamInfer", *(raw_infer([row], request_id=str(row)) for row in FLOWERS)
    ),
    _case(
        "stream-one-wrong",
        "ModelStreamInfer",
        raw_infer(request_id="a"),
        raw_infer(request_id="b", outputs=[wanted("colour")]),
        raw_infer(request_id="c", model="tulips"),
        infer(typed(FLOWERS), request_id="d"),
    ),
    _case("stream-empty", "ModelStreamInfer"),
)

REPOSITORY = (
    _case(
        "load-unknown", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="tulips")
    ),
    _case("load-no-name", "RepositoryModelLoad", pb.RepositoryModelLoadRequest()),
    _case("load-path", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="../iris")),
    _case(
        "load-in-named-repository",
        "RepositoryModelLoad",
        pb.RepositoryModelLoadRequest(repository_name="attic", model_name="iris-setosa"),
    ),
    _case(
        "load-by-repository-name",
        "RepositoryModelLoad",
        pb.RepositoryModelLoadRequest(repository_name="iris-setosa"),
    ),
    _case(
        "load-again", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="iris-setosa")
    ),
    _case(
        "load-with-config",
        "RepositoryModelLoad",
        pb.RepositoryModelLoadRequest(
            model_name="iris-setosa",
            parameters={"config": pb.ModelRepositoryParameter(string_param="{")},
        ),
    ),
    _case(
        "unload-unknown",
        "RepositoryModelUnload",
        pb.RepositoryModelUnloadRequest(model_name="tulips"),
    ),
    _case("unload-no-name", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest()),
    _case(
        "unload", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="iris-setosa")
    ),
    _case("unloaded-ready", "ModelReady", pb.ModelReadyRequest(name="iris-setosa")),
    _case("unloaded-metadata", "ModelMetadata", pb.ModelMetadataRequest(name="iris-setosa")),
    _case("unloaded-infer", "ModelInfer", raw_infer(model="iris-setosa")),
    _case("unloaded-index", "RepositoryIndex", pb.RepositoryIndexRequest()),
    _case("unloaded-server-ready", "ServerReady", pb.ServerReadyRequest()),
    _case(
        "unload-again",
        "RepositoryModelUnload",
        pb.RepositoryModelUnloadRequest(model_name="iris-setosa"),
    ),
    _case("reload", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="iris-setosa")),
    _case("reloaded-ready", "ModelReady", pb.ModelReadyRequest(name="iris-setosa")),
)

ENSEMBLE_CASES = (*ABOUT, *SOUND, *MALFORMED, *STREAMS)
"""What an aggregator answers as Triton does."""
PREDICTOR_CASES = REPOSITORY
"""What a predictor that can read `iris-setosa` and has loaded it answers as Triton does, in this
order."""
