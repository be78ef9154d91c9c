"""Tries a model as it will be used: a real predictor loads it, from the same messages.

The predictor is a child process that has nothing to lose, so whatever happens it is killed in the
end; an artifact that makes it crash or hang harms nobody else. It gets nothing of our environment
but where Python is, and no more than a bounded share of memory, CPU time and files.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from grpc import aio

from trillium.client.wire import error_of
from trillium.errors import DeadlineExceeded, ModelRejected, Unreachable
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.model.messages import description_of
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.rpc.channels import link_channel
from trillium.server import programs
from trillium.server.children import ChildProcess, how_it_ended

from ..predictors import Artifact, Predictors
from ..private_folder import PrivateFolder

START_S = 60.0
"""How long a predictor may take until it answers: long enough for a machine that is busy."""
LOAD_S = 120.0
_ANSWER_S = 10.0
_ENDING_S = 1.0
"""How long after its connection broke a predictor may take to be seen as dead."""
_POLL_S = 0.02
_LOG_BYTES = 2000
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""What a predictor needs of our environment. It may hold passwords, which a model that takes its
predictor over would read there."""
DATA_BYTES, DATA_FACTOR = 2 * 2**30, 4
"""Memory that a predictor may take, and that multiple of the artifact's size besides: those of the
models that ship take 0.15 GiB, and opening a model takes about three times its size."""
_FILE_BYTES = 16 * 2**20
_MOST_FILES = 256


class TrialFailed(Exception):
    """No predictor could be started; this does not concern the model."""


class Trial:
    """Implements the catalog's `ModelTrial` with a predictor process for each model."""

    def __init__(
        self,
        *,
        at_once: int = 2,
        start_s: float = START_S,
        load_s: float = LOAD_S,
        python: str = sys.executable,
    ) -> None:
        """At most `at_once` models are tried at a time, others wait; a model that is not loaded
        after `load_s` is refused."""
        self._turns = asyncio.Semaphore(at_once)
        self._start_s = start_s
        self._load_s = load_s
        self._python = python

    async def describe(
        self, name: str, artifact: bytes, digest: str, declared: DeclaredFacts
    ) -> ModelDescription:
        """A predictor's description of the model that it has just loaded.

        Cancelling ends the predictor, too. Raises what the predictor refuses the model with
        (ModelRejected, InvalidRequest), ModelRejected if that was its end, and TrialFailed.
        """
        given = Artifact(name, digest, artifact, declared)
        async with self._turns:
            # What a controller that was killed leaves of it is deleted by the next one.
            try:
                folder = await asyncio.to_thread(PrivateFolder, None)
            except OSError as error:
                raise TrialFailed(f"there is no folder for a predictor: {error}") from error
            try:
                async with _child(folder.path, self._python) as child:
                    cpu_s = math.ceil(self._start_s + self._load_s)
                    _limit(child.pid, len(artifact), cpu_s)
                    return await self._ask(child, given)
            finally:
                await asyncio.to_thread(folder.delete)

    async def _ask(self, child: _Child, given: Artifact) -> ModelDescription:
        predictors = Predictors()
        try:
            await self._until_answering(child, predictors)
            await self._load(child, predictors, given)
            return await _description(child.address)
        finally:
            await predictors.close()

    async def _until_answering(self, child: _Child, predictors: Predictors) -> None:
        try:
            async with asyncio.timeout(self._start_s):
                # A channel that finds nobody backs off; so it is used when somebody listens.
                while not child.socket.exists() or await predictors.look(child.address) is None:
                    if child.status is not None:
                        raise TrialFailed(f"the predictor {child.ending()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            text = f"the predictor did not answer within {self._start_s:g} s"
            raise TrialFailed(text) from error

    async def _load(self, child: _Child, predictors: Predictors, given: Artifact) -> None:
        try:
            await predictors.load(child.address, given, timeout_s=self._load_s)
        except DeadlineExceeded as error:
            text = f"a predictor that tried it had not loaded it after {self._load_s:g} s"
            raise ModelRejected(text) from error
        except Unreachable as error:
            try:
                await asyncio.wait_for(child.ended(), _ENDING_S)
            except TimeoutError:
                raise ModelRejected("a predictor that tried it no longer answered") from error
            raise ModelRejected(f"a predictor that tried it {child.ending()}") from error


class _Child(ChildProcess):
    """A predictor process that listens in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "log")
        self.socket = folder / "p.sock"

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def ending(self) -> str:
        """How it ended, and its last output."""
        last = self.last_output(_LOG_BYTES).strip()
        return f"{how_it_ended(self.status or 0)}: {last or 'it wrote nothing'}"


@asynccontextmanager
async def _child(folder: Path, python: str) -> AsyncIterator[_Child]:
    """A predictor that listens in `folder`, which must be nobody else's; killed at the end.

    Raises TrialFailed.
    """
    child = _Child(folder)
    words = ("--listen", child.address, "--log-level", "error", "--parent-pid", str(os.getpid()))
    ours = programs.environment() or os.environ
    environment = {name: ours[name] for name in _PASSED_ON if name in ours}
    try:
        await child.start(
            *programs.command("predictor", *words, python=python), environment=environment
        )
    except OSError as error:
        raise TrialFailed(f"no predictor can be started with {python}: {error}") from error
    try:
        yield child
    finally:
        child.kill()
        await child.ended()


def _limit(pid: int, artifact_bytes: int, cpu_s: int) -> None:
    """Bound what a predictor may use before it has got anything. Linux only."""
    if sys.platform != "linux":
        return
    limits = {
        resource.RLIMIT_DATA: DATA_BYTES + DATA_FACTOR * artifact_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: _MOST_FILES,
        resource.RLIMIT_CORE: 0,
    }
    with suppress(ProcessLookupError):  # It has ended, which whoever waits for it will see.
        for limit, most in limits.items():
            resource.prlimit(pid, limit, (most, most))


async def _description(address: str) -> ModelDescription:
    async with link_channel(address) as channel:
        stub = ModelServiceStub(channel)
        try:
            answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=_ANSWER_S)
        except aio.AioRpcError as error:
            text = (
                f"the predictor did not describe the model: {error_of(error, address, _ANSWER_S)}"
            )
            raise TrialFailed(text) from error
    return description_of(answer.model)
