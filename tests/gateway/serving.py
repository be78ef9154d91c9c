"""A whole system in this process, and a caller that holds every answer against the document.

Every answer that `Caller` gets must have a status, a media type and a content that the document
promises for its operation: so all tests together are a test of the document, too.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from gateway.app import RunningGateway, running_gateway
from gateway.config import GatewayConfig
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor
from tests.aggregator.serving import aggregating
from tests.controller.serving import serving
from tests.waiting import eventually

LABELS = ("setosa", "versicolor", "virginica")
SETOSA = [5.1, 3.5, 1.4, 0.2]
VIRGINICA = [6.3, 3.3, 6.0, 2.5]
CALL_S = 90.0
JSON = "application/json"
PROBLEM = "application/problem+json"


def _pattern(path: str) -> re.Pattern[str]:
    """What a path of the document matches."""
    whole = re.escape(path).replace(r"\{", "{").replace(r"\}", "}").replace("{model}", ".+")
    return re.compile(re.sub(r"{\w+}", "[^/:]+", whole))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def text(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def fields(self) -> dict[str, str]:
        """The wrong fields of a problem and what is wrong with them."""
        return {each["field"]: each["description"] for each in self.json["fields"]}


class Caller:
    """Calls a gateway and holds its answers against its own document."""

    def __init__(self, session: aiohttp.ClientSession, base: str, document: Any) -> None:
        self._session = session
        self.base = base
        self.document = document
        # The name of a model may hold a slash, so longer paths are tried first.
        paths = sorted(document["paths"], key=lambda path: ("{" in path, -path.count("/")))
        self._paths = [(_pattern(path), path) for path in paths]

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        """POST `body` as JSON; bytes unchanged, as JSON unless a header differs."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": JSON, **options.pop("headers", {})}
        if body is None:
            return await self.call("POST", path, headers=headers, **options)
        return await self.call("POST", path, data=raw, headers=headers, **options)

    async def put(self, path: str, body: Any) -> Answer:
        return await self.call("PUT", path, json=body)

    async def delete(self, path: str) -> Answer:
        return await self.call("DELETE", path)

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self._session.request(method, self.base + path, **options) as response:
            answer = Answer(response.status, response.headers, await response.read())
        self.compare(method, path.partition("?")[0], answer)
        return answer

    def compare(self, method: str, path: str, answer: Answer) -> None:
        """AssertionError unless the document promises this answer."""
        assert answer.headers["x-request-id"]
        if answer.media_type == PROBLEM:
            assert answer.json["status"] == answer.status
        operation = self._operation(method, path)
        if operation is None:
            assert answer.status in (404, 405) or path.startswith(("/docs", "/openapi.json"))
            return
        promised = operation["responses"].get(str(answer.status))
        assert promised is not None, f"{method} {path}: {answer.status} is not promised"
        content = promised["content"].get(answer.media_type)
        assert content is not None, f"{method} {path}: {answer.media_type} is not promised"
        if answer.media_type in (JSON, PROBLEM):
            schema = {**content["schema"], "components": self.document["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(answer.json)

    def _operation(self, method: str, path: str) -> Any:
        for pattern, template in self._paths:
            if pattern.fullmatch(path):
                return self.document["paths"][template].get(method.lower())
        return None

    @asynccontextmanager
    async def events(self, path: str, **headers: str) -> AsyncIterator[Events]:
        """The server-sent events of a watch."""
        async with self._session.get(self.base + path, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            yield Events(response)


class Events:
    """Events, one after the other."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> tuple[str, Any] | None:
        """Name and data of the next event; None at the end."""
        kind = ""
        async with asyncio.timeout(CALL_S):
            async for raw in self._response.content:
                line = raw.decode().rstrip("\n")
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return kind, json.loads(line.removeprefix("data: "))
        return None

    async def rest(self) -> list[tuple[str, Any]]:
        """All events up to the end."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@dataclass(frozen=True, slots=True)
class System:
    """A system that is up."""

    gateway: RunningGateway
    call: Caller
    predictors: dict[str, AsyncExitStack]
    all_ready: Any
    aggregator: str
    controller: str

    async def lose(self, label: str) -> None:
        """Stop the predictor of a class, and wait until the aggregator knows."""
        await self.predictors[label].aclose()
        await eventually(lambda: not self.all_ready())


@asynccontextmanager
async def serving_system(
    models: Path, folder: Path, *, models_dir: Path | None = None, **config: Any
) -> AsyncIterator[System]:
    """The iris ensemble, a controller that keeps its state in `folder`, and a gateway."""
    async with AsyncExitStack() as stack:
        endpoints, predictors = [], {}
        for label in LABELS:
            predictors[label] = await stack.enter_async_context(AsyncExitStack())
            settings = PredictorConfig(listen="127.0.0.1:0", model=models / f"iris-{label}.onnx")
            predictor = await predictors[label].enter_async_context(running_predictor(settings))
            endpoints.append(Endpoint(label, predictor.address))
        aggregator = await stack.enter_async_context(
            running_aggregator(AggregatorConfig(tuple(endpoints), listen="127.0.0.1:0"))
        )
        await eventually(aggregator.roster.all_ready)
        up = await stack.enter_async_context(serving(folder, models_dir=models_dir))
        addresses = (aggregator.address, up.controller.address)
        gateway, call = await stack.enter_async_context(gateway_before(*addresses, **config))
        all_ready = aggregator.roster.all_ready
        yield System(gateway, call, predictors, all_ready, *addresses)


@asynccontextmanager
async def gateway_before(
    aggregator: str, controller: str, **config: Any
) -> AsyncIterator[tuple[RunningGateway, Caller]]:
    """A gateway on a free port, and a caller of it."""
    settings = GatewayConfig(
        **{
            "listen": "127.0.0.1:0",
            "aggregator": aggregator,
            "controller": controller,
            "drain_s": 2.0,
            **config,
        }
    )
    timeout = aiohttp.ClientTimeout(total=CALL_S)
    async with (
        running_gateway(settings) as gateway,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        base = f"http://{gateway.address}"
        async with session.get(f"{base}/openapi.json") as response:
            document = await response.json()
        yield gateway, Caller(session, base, document)


@asynccontextmanager
async def gateway_before_fake(fake: FakePredictor) -> AsyncIterator[Caller]:
    """A caller of a gateway before an aggregator whose only class is `fake`'s."""
    async with (
        fakes.running(fake),
        aggregating(fake.endpoint) as served,
        gateway_before(served.aggregator.address, "127.0.0.1:1") as (_, call),
    ):
        yield call


async def read_all(stream: asyncio.StreamReader) -> bytes:
    """All that comes until the other side closes the connection."""
    async with asyncio.timeout(CALL_S):
        return await stream.read()


async def raw_exchange(address: str, parts: Sequence[bytes]) -> bytes:
    """What a gateway answers to bytes that no decent client would send."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
        return await read_all(reader)
    finally:
        writer.close()
