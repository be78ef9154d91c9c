"""Triton 2.51, which PyTriton's wheel carries: its own ensemble, and PyTriton's models."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.peers.proxies import inference
from bench.peers.servers import SERVERS
from bench.processes import ROOT, free_port, running
from bench.systems.known import Up
from bench.systems.naive import LABELS

_OWN_LIBRARIES = str(sysconfig.get_config_var("LIBDIR"))
"""The Python backend wants this interpreter's libpython, not another one's of the same minor."""
_CLASS = """
backend: "python"
max_batch_size: 4096
input [ {{ name: "input" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [ {{ name: "probability" data_type: TYPE_FP32 dims: [ 1 ] }} ]
parameters: {{ key: "artifact" value: {{ string_value: "{artifact}" }} }}
dynamic_batching {{ }}
"""
_BEST = """
backend: "python"
max_batch_size: 4096
input [ {inputs} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] }},
  {{ name: "label" data_type: TYPE_STRING dims: [ 1 ] }}
]
dynamic_batching {{ }}
"""
_ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4096
input [ {{ name: "input" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] }},
  {{ name: "label" data_type: TYPE_STRING dims: [ 1 ] }}
]
ensemble_scheduling {{ step [ {steps} ] }}
"""


def _pair(kind: str, key: str, value: str) -> str:
    return f'{kind} {{ key: "{key}" value: "{value}" }}'


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    pairs = [_pair("input_map", key, value) for key, value in inputs.items()]
    pairs += [_pair("output_map", key, value) for key, value in outputs.items()]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(pairs)} }}'


def repository(folder: Path, models: Path) -> Path:
    """Triton's model repository: a model of each class, one that combines, and the ensemble."""
    for label in LABELS:
        config = _CLASS.format(artifact=models.resolve() / f"iris-{label}.onnx")
        _add(folder, label, config, SERVERS / "triton_class.py")
    inputs = ", ".join(
        f'{{ name: "{label}" data_type: TYPE_FP32 dims: [ 1 ] }}' for label in LABELS
    )
    _add(folder, "best", _BEST.format(inputs=inputs), SERVERS / "triton_best.py")
    steps = [_step(label, {"input": "input"}, {"probability": label}) for label in LABELS]
    outputs = {"probabilities": "probabilities", "label": "label"}
    steps.append(_step("best", dict(zip(LABELS, LABELS, strict=True)), outputs))
    _add(folder, "iris", _ENSEMBLE.format(steps=", ".join(steps)), None)
    return folder


def _add(folder: Path, name: str, config: str, program: Path | None) -> None:
    version = folder / name / "1"
    version.mkdir(parents=True)
    if program is not None:
        shutil.copy(program, version / "model.py")
    (folder / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')


@contextmanager
def triton(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Triton's server with its own ensemble scheduler over models of the Python backend."""
    (packages,) = environment.glob("lib/python*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    backends = folder / "triton-backends"
    shutil.copytree(server / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    port = free_port()
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository(folder / 'triton-models', models)}",
        f"--backend-directory={backends}",
        f"--grpc-port={port}",
        "--grpc-address=127.0.0.1",
        "--allow-http=false",
        "--allow-metrics=false",
    ]
    variables = {
        "BENCH_PACKAGES": str(packages),
        "BENCH_ROOT": str(ROOT),
        "LD_LIBRARY_PATH": f"{_OWN_LIBRARIES}:{packages / 'nvidia_pytriton.libs'}",
    }
    with running(command, log=folder / "triton.log", environment=variables) as pids:
        yield inference("triton", port, pids)


@contextmanager
def pytriton(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Models in one process of Python behind Triton's front."""
    port = free_port()
    workspace = folder / "pytriton-workspace"
    words = [str(port), str(models.resolve()), str(workspace)]
    module = "bench.peers.servers.pytriton_iris"
    command = [f"{environment}/bin/python", "-m", module, *words]
    variables = {"LD_LIBRARY_PATH": _OWN_LIBRARIES}
    with running(command, log=folder / "pytriton.log", environment=variables) as pids:
        yield inference("pytriton", port, pids)
