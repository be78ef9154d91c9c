"""The program itself: `python -m predictor`, started, asked, stopped and started wrongly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import artifacts
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.predictor.endless import ENDLESS_ROWS, endless_on_demand
from tests.predictor.serving import request_of, streamed, upload, withdrawal
from tests.waiting import eventually
from trillium.predictor.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    predictor_service_pb2_grpc,
)

ROOT = Path(__file__).resolve().parents[2]
SETOSA_FLAGS = ("--class-label", "setosa", "--positive-column", "1")
LARGE_MIB = 64


@dataclass(frozen=True, slots=True)
class Started:
    """A predictor process that serves."""

    process: Process
    address: str
    channel: aio.Channel

    @property
    def predict(self) -> Any:
        return predictor_service_pb2_grpc.PredictorServiceStub(self.channel)

    @property
    def model(self) -> Any:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)

    @property
    def health(self) -> Any:
        return health_pb2_grpc.HealthStub(self.channel)

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for the end of the process; its exit status and the rest of its log."""
        assert self.process.stderr is not None
        rest = await asyncio.wait_for(self.process.stderr.read(), 60)
        status = await asyncio.wait_for(self.process.wait(), 60)
        return status, [json.loads(line) for line in rest.decode().splitlines()]

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


async def start(*flags: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictor", *flags, cwd=ROOT, stdout=PIPE, stderr=PIPE
    )


@asynccontextmanager
async def started(*flags: str, listen: str = "127.0.0.1:0") -> AsyncIterator[Started]:
    """The program with these flags, from when it says that it serves; killed if it outlives us."""
    process = await start("--listen", listen, *flags)
    try:
        assert process.stderr is not None
        line: dict[str, Any] = {}
        while line.get("message") != "serving":
            line = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
        async with aio.insecure_channel(line["address"]) as channel:
            yield Started(process, line["address"], channel)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def refusal(*flags: str) -> tuple[int, str]:
    """The exit status and everything that the program prints when it cannot start."""
    process = await start("--listen", "127.0.0.1:0", *flags)
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert output == b""
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.fixture
def svm(tmp_path: Path) -> Path:
    """Somebody else's opset-9 SVM, whose probabilities ZipMap makes."""
    path = tmp_path / "svm.onnx"
    path.write_bytes(artifacts.opset9_svm_zipmap())
    return path


async def test_svm_of_a_third_party_is_served_bit_for_bit_by_one_command(svm: Path) -> None:
    flags = ("--model", str(svm), "--class-label", "setosa", "--positive-column", "0")
    async with started(*flags) as predictor:
        health = await predictor.health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        answer = await predictor.predict.Predict(request_of(iris_rows()), timeout=60)
        reference = reference_positive_probabilities(artifacts.opset9_svm_zipmap(), iris_rows(), 0)
        assert answer.probabilities == reference.tobytes()
        told = await predictor.model.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
        assert (told.model.name, told.model.class_label) == ("svm", "setosa")
        predictor.process.send_signal(signal.SIGTERM)
        status, log = await predictor.end()
        assert status == 0
        assert [line["message"] for line in log] == ["draining"]


async def test_sigterm_lets_requests_in_flight_finish_and_takes_no_more(tmp_path: Path) -> None:
    path = tmp_path / "slow.onnx"
    path.write_bytes(endless_on_demand())
    async with started("--model", str(path), *SETOSA_FLAGS) as predictor:
        stream = predictor.predict.PredictStream(timeout=60)
        await stream.write(streamed(1, ENDLESS_ROWS))
        await stream.write(streamed(2))

        async def in_flight() -> bool:
            told = await predictor.model.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
            return bool(told.in_flight_count == 2)

        await eventually(in_flight)
        watch = aiter(predictor.health.Watch(health_pb2.HealthCheckRequest(), timeout=60))
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
        predictor.process.send_signal(signal.SIGTERM)
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert predictor.process.returncode is None
        await stream.write(withdrawal(1))
        first, second = [answer async for answer in stream]
        assert first.error.code == 1
        reference = reference_positive_probabilities(endless_on_demand(), iris_rows()[2:3], 1)
        assert second.probabilities == reference.tobytes()
        assert (await predictor.end())[0] == 0


async def test_drain_ends_after_its_time_whoever_still_runs(tmp_path: Path) -> None:
    path = tmp_path / "slow.onnx"
    path.write_bytes(endless_on_demand())
    flags = ("--model", str(path), "--drain-s", "0.1", *SETOSA_FLAGS)
    async with started(*flags) as predictor:
        call = asyncio.ensure_future(predictor.predict.Predict(request_of(ENDLESS_ROWS)))

        async def in_flight() -> bool:
            told = await predictor.model.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
            return bool(told.in_flight_count == 1)

        await eventually(in_flight)
        predictor.process.send_signal(signal.SIGINT)
        assert (await predictor.end())[0] == 0
        with pytest.raises(aio.AioRpcError):
            await call


async def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "slow.onnx"
    path.write_bytes(endless_on_demand())
    async with started("--model", str(path), "--drain-s", "3600", *SETOSA_FLAGS) as predictor:
        call = asyncio.ensure_future(predictor.predict.Predict(request_of(ENDLESS_ROWS)))

        async def in_flight() -> bool:
            told = await predictor.model.GetModel(model_service_pb2.GetModelRequest(), timeout=60)
            return bool(told.in_flight_count == 1)

        await eventually(in_flight)
        watch = aiter(predictor.health.Watch(health_pb2.HealthCheckRequest(), timeout=60))
        await anext(watch)
        predictor.process.send_signal(signal.SIGTERM)
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        predictor.process.send_signal(signal.SIGTERM)
        assert (await predictor.end())[0] == 128 + signal.SIGTERM
        with pytest.raises(aio.AioRpcError):
            await call


WRONG_STARTS: dict[str, tuple[Callable[[Path], tuple[str, ...]], int, str]] = {
    "missing file": (
        lambda folder: ("--model", str(folder / "none.onnx")),
        1,
        "cannot read the model .*none.onnx: No such file.*; check --model",
    ),
    "corrupt artifact": (
        lambda folder: ("--model", written(folder, artifacts.not_onnx()), *SETOSA_FLAGS),
        1,
        r"the model .*model\.onnx is refused: ONNX Runtime cannot open it",
    ),
    "no classifier": (
        lambda folder: ("--model", written(folder, artifacts.three_classes()), *SETOSA_FLAGS),
        1,
        "is refused: no output can hold a binary classifier's probabilities",
    ),
    "model that takes texts": (
        lambda folder: ("--model", written(folder, artifacts.string_input()), *SETOSA_FLAGS),
        1,
        r"is refused: input 'input' is a tensor\(string\); expected one of tensor\(float16\)",
    ),
    "nothing said of the model": (
        lambda folder: ("--model", written(folder, artifacts.two_column_tensor())),
        1,
        "is refused: which class it recognizes is not declared: give --class-label",
    ),
    "wrong file beside": (
        lambda folder: ("--model", written(folder, artifacts.two_column_tensor(), "{")),
        1,
        r"model\.json cannot be read as JSON",
    ),
    "class whose name may mark the rest": (
        lambda folder: (
            *("--model", written(folder, artifacts.opset9_svm_zipmap())),
            *("--class-label", "0"),
        ),
        1,
        "do not show which column is the class '0': .* --positive-column",
    ),
    "address that other machines reach": (
        lambda folder: ("--listen", "192.0.2.1:50061"),
        1,
        "192.0.2.1:50061 may be reached from other machines, .*; .* set --insecure yes",
    ),
    "wrong value": (
        lambda folder: ("--threads", "many"),
        2,
        "--threads=many: expected a whole number from 1 to 256",
    ),
    "unknown flag": (lambda folder: ("--thread", "many", "--frobnicate"), 2, "--frobnicate"),
    "parent that is another": (
        lambda folder: ("--parent-pid", "1"),
        1,
        "the parent process 1 is gone",
    ),
}


def written(folder: Path, artifact: bytes, beside: str = "") -> str:
    """The path of `artifact`, with a file beside it if there is one to be."""
    path = folder / "model.onnx"
    path.write_bytes(artifact)
    if beside:
        path.with_suffix(".json").write_text(beside)
    return str(path)


async def test_each_wrong_start_ends_with_one_clear_sentence(tmp_path: Path) -> None:
    folders = {name: tmp_path / str(number) for number, name in enumerate(WRONG_STARTS)}
    limit = asyncio.Semaphore(3)

    async def tried(name: str) -> tuple[int, str]:
        folders[name].mkdir()
        async with limit:
            return await refusal(*WRONG_STARTS[name][0](folders[name]))

    results = await asyncio.gather(*map(tried, WRONG_STARTS))
    for (name, (_, status, sentence)), (found, errors) in zip(
        WRONG_STARTS.items(), results, strict=True
    ):
        assert found == status, (name, errors)
        assert "Traceback" not in errors, name
        lines = errors.splitlines()
        if name != "unknown flag":
            assert lines[0].startswith("predictor: "), (name, errors)
            assert len(lines) == (2 if status == 2 else 1), (name, errors)
        assert_matches(sentence, errors)


def assert_matches(pattern: str, text: str) -> None:
    assert pytest.RaisesExc(Exception, match=pattern).matches(Exception(text)), text


async def test_port_in_use_is_one_clear_sentence() -> None:
    async with started() as first:
        status, errors = await refusal("--listen", first.address)
    assert status == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"predictor: cannot listen on {first.address}: it is in use")
    assert "choose another --listen" in line


async def test_predictor_ends_with_its_parent() -> None:
    """A parent that is killed outright, as by the kernel, has no chance to end its children."""
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'predictor', '--listen', '127.0.0.1:0',"
        " '--parent-pid', str(os.getpid())], stderr=subprocess.PIPE)\n"
        "child.stderr.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=PIPE)
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    assert is_running(child)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    """Whether that process lives; a zombie, which nobody has buried yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_unloading_gives_the_memory_back() -> None:
    async with started() as predictor:

        async def load(artifact: bytes) -> None:
            await predictor.model.LoadModel(upload(artifact, 2**20), timeout=60)

        async def unload() -> None:
            await predictor.model.UnloadModel(model_service_pb2.UnloadModelRequest(), timeout=60)

        # What the first load of all takes and keeps, such as code, is not the model's.
        await load(artifacts.two_column_tensor())
        await unload()
        before = predictor.resident_bytes()
        await load(artifacts.large(LARGE_MIB))
        answer = await predictor.predict.Predict(request_of(iris_rows()), timeout=60)
        assert len(np.frombuffer(answer.probabilities, "<f4")) == 150
        taken = predictor.resident_bytes() - before
        assert taken > LARGE_MIB * 2**20 * 0.9
        await unload()
        await eventually(lambda: predictor.resident_bytes() - before < 0.1 * taken)


async def test_log_follows_a_request_by_its_id(svm: Path) -> None:
    async with started("--model", str(svm), *SETOSA_FLAGS) as predictor:
        metadata = (("x-request-id", "flower-1"),)
        call: Awaitable[Any] = predictor.predict.Predict(
            request_of(iris_rows()), timeout=60, metadata=metadata
        )
        await call
        await predictor.predict.Predict(request_of(iris_rows()), timeout=60)
        predictor.process.send_signal(signal.SIGTERM)
        _, log = await predictor.end()
        (line,) = [line for line in log if line["message"] == "call"]
        assert line["request_id"] == "flower-1"
        assert line["outcome"] == "OK"
        assert line["method"] == "/trillium.predictor.v1.PredictorService/Predict"
        assert line["service"] == "predictor"
