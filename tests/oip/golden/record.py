"""Ask a real Triton server everything in `cases` and keep its answers in `triton.json`.

    python -m venv triton
    triton/bin/pip install nvidia-pytriton==0.7.0 'numpy<2' onnxruntime
    python -m tests.oip.golden.record triton models

Run by hand, where the wheel that carries Triton installs (Linux x86-64; a few hundred megabytes):
the answers are committed, and the tests compare ours with them. `models` holds the artifacts of
iris; Triton runs them with ONNX Runtime in its Python backend, which answers nothing but empty
tensors with numpy 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from grpc import aio

from tests.oip.golden.asking import Answer, answer
from tests.oip.golden.cases import ABOUT, ENSEMBLE_CASES, PREDICTOR_CASES, Case
from tests.waiting import eventually

ANSWERS = Path(__file__).with_name("triton.json")
MODEL = Path(__file__).with_name("triton_model.py")
START_S = 60.0
DYING_S = 10.0
DIED = "(the server died)"
LABELS = ("setosa", "versicolor", "virginica")

_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 10000
input [ {{ name: "input" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ {count} ]
    label_filename: "labels.txt"
  }}{more}
]
parameters: {{ key: "artifacts" value: {{ string_value: "{artifacts}" }} }}
dynamic_batching {{ }}
"""
_LABEL = """,
  { name: "label" data_type: TYPE_STRING dims: [ 1 ] reshape: { shape: [ ] } }"""


def repository(folder: Path, models: Path) -> Path:
    """Triton's model repository: `iris`, and `iris-setosa` by itself."""
    for name, labels, more in (("iris", LABELS, _LABEL), ("iris-setosa", LABELS[:1], "")):
        place = folder / "repository" / name
        (place / "1").mkdir(parents=True)
        shutil.copy(MODEL, place / "1" / "model.py")
        (place / "labels.txt").write_text("\n".join(labels) + "\n")
        artifacts = ",".join(str(models.resolve() / f"iris-{label}.onnx") for label in labels)
        config = _CONFIG.format(name=name, count=len(labels), artifacts=artifacts, more=more)
        (place / "config.pbtxt").write_text(config)
    return folder / "repository"


def backends(folder: Path, triton: Path) -> Path:
    """The Python backend, with the program for this Python beside it."""
    shutil.copytree(triton / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    return folder / "backends"


@contextmanager
def running(environment: Path, models: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Triton server on a free port: its address and its process."""
    (triton,) = environment.glob("lib/python*/site-packages/pytriton/tritonserver")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as scratch:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        folder = Path(scratch)
        command = [
            str(triton / "bin" / "tritonserver"),
            f"--model-repository={repository(folder, models)}",
            f"--backend-directory={backends(folder, triton)}",
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--grpc-port={port}",
            "--grpc-address=127.0.0.1",
            "--allow-http=false",
            "--allow-metrics=false",
        ]
        packages = str(triton.parents[1])
        libraries = str(triton.parents[1] / "nvidia_pytriton.libs")
        variables = {**os.environ, "RECORDER_PATH": packages, "LD_LIBRARY_PATH": libraries}
        process = subprocess.Popen(command, env=variables)
        try:
            yield f"127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait(30)


async def record(
    address: str, process: subprocess.Popen[bytes], cases: Sequence[Case]
) -> dict[str, Answer]:
    """The answer to each case, by its name; the last one is that on which the server died."""
    answers = {}
    async with aio.insecure_channel(address) as channel:
        ready = next(case for case in ABOUT if case.rpc == "ServerReady")

        async def is_ready() -> bool:
            return (await answer(channel, ready)).get("response") == {"ready": True}

        await eventually(is_ready, START_S)
        for case in cases:
            answers[case.name] = await answer(channel, case)
            # Further lines are the Python backend's stack, with paths of this machine.
            message = answers[case.name]["message"].partition("\n")[0]
            answers[case.name]["message"] = message
            if answers[case.name]["code"] == "UNAVAILABLE" and await _died(process):
                answers[case.name]["message"] = DIED
                break
    return answers


async def _died(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process ends within a while."""
    try:
        await asyncio.to_thread(process.wait, DYING_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("environment", type=Path, help="where nvidia-pytriton is installed")
    parser.add_argument("models", type=Path, help="folder with the artifacts of iris")
    given = parser.parse_args()
    answers: dict[str, Answer] = {}
    while left := [
        case for case in (*ENSEMBLE_CASES, *PREDICTOR_CASES) if case.name not in answers
    ]:
        with running(given.environment, given.models) as (address, process):
            answers |= asyncio.run(record(address, process, left))
    ANSWERS.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
