"""A front on h2corn, an HTTP/2 server in Rust that runs within this process and its event loop.

Here is what gRPC means by HTTP/2, as an ASGI application; see docs/design/fronts.md. h2corn cancels
the task of a call whose caller resets the stream or is gone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import h2corn

from trillium.errors import (
    Code,
    DeadlineExceeded,
    Draining,
    Overloaded,
    RemoteError,
    TrilliumError,
    Unsupported,
)
from trillium.rpc.call import REQUEST_ID_KEY, Call, CallFailed, open_call
from trillium.rpc.framing import (
    ACCEPTED_ENCODINGS,
    Unframer,
    binary,
    frame,
    percent_encoded,
    timeout_s,
)
from trillium.rpc.listening import Listening
from trillium.rpc.methods import Endpoints, Limits, Service
from trillium.rpc.reflection import reflection_service
from trillium.rpc.status import DETAILS_KEY, to_status

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_STREAM_WINDOW_BYTES = 512 * 1024
"""So much of a request waits at most for its handler; then the caller is held back."""
_CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
_HEADERS_BYTES = 64 * 1024
"""Of one request, with 32 bytes more for each as HTTP/2 counts them."""
_STALLED_S = 300.0
"""A caller that takes no answer for so long is cut off: what waits for it is held in memory."""
_CLOSE_S = 1.0
"""So much longer than a drain may h2corn take to end. Once in some hundred times it is left with a
connection that it does not close by itself, and then it does take as long as it may."""
_LAST_WORDS_S = 1.0
"""So long may the status of a failed call wait for a caller that does not read."""

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_CONTENT_TYPE],
    "trailers": True,
}
_TRAILERS_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class H2cornFront:
    """A front on h2corn. Speaks plaintext, and HTTP/2 alone."""

    def __init__(
        self,
        services: Sequence[Service],
        listen: Sequence[str],
        limits: Limits,
        *,
        shares_port: bool = False,
        drain_s: float = 10.0,
    ) -> None:
        """`listen` holds addresses such as `127.0.0.1:50051` (port 0: any) or `unix:/path`. With
        `shares_port` other processes of this user may listen there, too. `drain_s` is the longest
        grace that `stop` will be given: h2corn wants to know it before."""
        self._listen = tuple(listen)
        self._limits = limits
        self._drain_s = drain_s
        self._endpoints = Endpoints(limits)
        self._methods = {
            f"/{service.name}/{method.name}".encode(): (method.kind, self._endpoints.of(method))
            for service in (*services, reflection_service(services))
            for method in service.methods
        }
        self._listening = Listening(shares_port)
        self._server: h2corn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens; empty before `start`."""
        return tuple(self._listening.addresses)

    @property
    def in_flight(self) -> int:
        """Calls that handlers are working on."""
        return self._endpoints.in_flight

    async def start(self) -> None:
        """Listen. Raises AddressInUse, and then listens nowhere."""
        await self._listening.open(self._listen)
        config = h2corn.Config(
            bind=tuple(f"fd://{each}" for each in self._listening.descriptors),
            lifespan="off",
            http1=False,
            grpc=True,
            access_log=False,
            log_format="json",
            date_header=False,
            # The limit of calls is kept here, where a caller can be told of it.
            max_concurrent_streams=max(256, 2 * self._limits.max_concurrent_calls),
            limit_request_fields=0,
            h2_max_header_list_size=_HEADERS_BYTES,
            h2_initial_stream_window_size=_STREAM_WINDOW_BYTES,
            h2_initial_connection_window_size=_CONNECTION_WINDOW_BYTES,
            timeout_keep_alive=0.0,
            timeout_graceful_shutdown=self._drain_s + _CLOSE_S,
            h2_timeout_response_stall=_STALLED_S,
            h2_timeout_write=_STALLED_S,
        )
        self._server = h2corn.Server(self._answer, config)
        self._serving = asyncio.create_task(self._server.serve(), name="h2corn")
        await self._server.wait_started()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight `grace_s` seconds, then cancel them.

        Waits, for at most one second more, until none runs any longer, and then until h2corn has
        ended, too.
        """
        if self._server is None or self._serving is None:
            return
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._drain_s + 2 * _CLOSE_S
        self._stopping = True
        self._server.shutdown()
        self._listening.turn_away()
        await _ended(self._calls, grace_s)
        for task in self._calls:
            task.cancel()
        if not await _ended(self._calls, 1.0):
            log.warning("stopped with calls in flight", extra={"count": self.in_flight})
        elif not await _ended({self._serving}, latest - loop.time()):
            log.warning("stopped, but h2corn has not ended")
        self._listening.close()
        if self._serving.done():
            self._serving.result()

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request: the ASGI application."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers = dict(scope["headers"])
        status = _http_status(scope, headers)
        if status != 200:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body"})
            return
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        answer = _Answer(send)
        try:
            await self._call(scope, headers, receive, answer)
        except CallFailed as failed:
            await answer.fail(failed.status)
        except TrilliumError as error:
            await answer.fail(to_status(error))
        except TimeoutError:
            late = DeadlineExceeded("the deadline passed before the work was done")
            await answer.fail(to_status(late))
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            await answer.fail(to_status(Draining("the server stops")))
        except OSError:
            # h2corn's word for a stream that the caller has reset.
            return
        finally:
            self._calls.discard(task)

    async def _call(
        self, scope: Any, headers: dict[bytes, bytes], receive: Receive, answer: _Answer
    ) -> None:
        """Serve one call up to its end. Raises TimeoutError at its deadline."""
        path = scope["raw_path"]
        if self._stopping:
            raise Draining("the server stops")
        if len(self._calls) > self._limits.max_concurrent_calls:
            raise Overloaded("too many calls are in flight", retry_after_s=1.0)
        if path not in self._methods or scope["query_string"]:
            raise Unsupported("there is no such method here")
        kind, endpoint = self._methods[path]
        seconds = math.inf
        if (text := headers.get(b"grpc-timeout")) is not None:
            seconds = timeout_s(text.decode("latin-1"))
        call = _opened(scope, headers, time.monotonic() + seconds)
        encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        most_bytes = self._limits.max_message_bytes * self._limits.HARD_FACTOR
        body = _Body(receive, Unframer(encoding, most_bytes))
        requests_stream, responses_stream = kind.value
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            request = body if requests_stream else await body.only()
            if not responses_stream:
                await answer.all(await endpoint(request, call))
                return
            async with aclosing(endpoint(request, call)) as responses:
                async for response in responses:
                    await answer.one(response)
            await answer.end()


class _Body:
    """The messages of one request, in the order in which they come."""

    def __init__(self, receive: Receive, unframer: Unframer) -> None:
        self._receive = receive
        self._unframer = unframer
        self._ready: deque[bytes] = deque()
        self._more = True

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if not self._more:
                raise StopAsyncIteration
            await self._pull()
            await asyncio.sleep(0)  # As in `_Answer.one`: what has arrived is handed out at once.
        return self._ready.popleft()

    async def only(self) -> bytes:
        """The one message of a request that must have one. Raises RemoteError for another count."""
        while self._more and len(self._ready) < 2:
            await self._pull()
        if len(self._ready) != 1:
            text = "the method takes exactly one request message"
            raise RemoteError(Code.UNIMPLEMENTED, "WRONG_COUNT_OF_MESSAGES", text)
        return self._ready.popleft()

    async def _pull(self) -> None:
        event = await self._receive()
        if event["type"] != "http.request":
            raise asyncio.CancelledError("the caller is gone")
        self._ready.extend(self._unframer.feed(event.get("body", b"")))
        self._more = event.get("more_body", False)
        if not self._more:
            self._unframer.end()


class _Answer:
    """The response to one call."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def all(self, message: bytes) -> None:
        """The only message, and the end."""
        self._started = True
        await self._send(_START)
        await self._send({"type": "http.response.body", "body": frame(message)})
        await self._send(_TRAILERS_OK)

    async def one(self, message: bytes) -> None:
        """One of several messages; waits while the caller takes none.

        h2corn may take a message without letting anybody else run, so this does.
        """
        if not self._started:
            self._started = True
            await self._send(_START)
        await self._send({"type": "http.response.body", "body": frame(message), "more_body": True})
        await asyncio.sleep(0)

    async def end(self) -> None:
        """The end of all went well."""
        if not self._started:
            self._started = True
            await self._send(_START)
        await self._send({"type": "http.response.body"})
        await self._send(_TRAILERS_OK)

    async def fail(self, status: Any) -> None:
        """The end with an error, unless the caller is gone or does not read."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._fail(status)
        except OSError as error:  # TimeoutError is one: h2corn then resets the stream.
            log.debug("a status was not sent", extra={"cause": repr(error)})

    async def _fail(self, status: Any) -> None:
        headers = [
            (b"grpc-status", b"%d" % status.code),
            (b"grpc-message", percent_encoded(status.message)),
            (DETAILS_KEY.encode(), binary(status.SerializeToString())),
        ]
        if status.code == Code.UNIMPLEMENTED:
            headers.append((b"grpc-accept-encoding", ACCEPTED_ENCODINGS.encode()))
        if self._started:
            await self._send({"type": "http.response.body"})
            await self._send({"type": "http.response.trailers", "headers": headers})
        else:
            headers.insert(0, _CONTENT_TYPE)
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body"})


def _http_status(scope: Any, headers: dict[bytes, bytes]) -> int:
    """200 for a request that is gRPC, and otherwise why it is none."""
    if scope["method"] != "POST":
        return 405
    media, _, _ = headers.get(b"content-type", b"").lower().partition(b";")
    if media.strip() != b"application/grpc" and not media.startswith(b"application/grpc+"):
        return 415
    # Without it there can be no trailers, and so no status.
    return 200 if headers.get(b"te") == b"trailers" else 400


def _opened(scope: Any, headers: dict[bytes, bytes], deadline: float) -> Call:
    request_id = headers.get(REQUEST_ID_KEY.encode(), b"")
    metadata = {REQUEST_ID_KEY: request_id.decode()} if request_id.isascii() else {}
    return open_call(scope["path"], metadata, deadline, _peer(scope.get("client")))


def _peer(client: tuple[str, int] | None) -> str:
    """The caller's address as grpc writes it."""
    if client is None:
        return "unix:"
    host, port = client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


async def _ended(tasks: set[asyncio.Task[Any]], within_s: float) -> bool:
    """Whether all of `tasks` have ended within so many seconds."""
    return not tasks or not (await asyncio.wait(tasks, timeout=within_s))[1]
