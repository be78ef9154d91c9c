"""Calls to one engine: from worker threads, each with a client of its own, each ended in time."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig

from .docker_errors import Meaning, meaning_of, unreachable
from .docker_settings import DockerSettings
from .port import RuntimeUnreachable

T = TypeVar("T")

NEWEST_API = (1, 45)
"""The newest version of the API that this was written for."""
NEGOTIATION_S = 3
QUICK_WORKERS = 4
SLOW_WORKERS = 4
"""For calls that last by their nature, so that looking never waits for draining."""
CLOSE_S = 2.0
"""How long `close` waits for calls in flight. Those of an engine that hangs end later, each within
its own time-out."""


class Engine:
    """One engine. It is first asked when it is first needed, and asked anew after any failure."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._quick = ThreadPoolExecutor(QUICK_WORKERS, "docker")
        self._slow = ThreadPoolExecutor(SLOW_WORKERS, "docker-slow")
        self._own = threading.local()
        self._clients: set[APIClient] = set()
        self._version: str | None = None
        self._closed = False

    async def call(self, work: Callable[[APIClient], T], *, lasting_s: float | None = None) -> T:
        """What `work` answers, in a worker thread. Raises RuntimeUnreachable, at the latest after
        three times the time-out of one request, and what `work` raises of APIError.

        `lasting_s` is for work that lasts by its nature, and is added to that. Work that has begun
        goes on when the caller gives up; work that has not is dropped.
        """
        if self._closed:
            raise RuntimeUnreachable("the runtime is closed")
        pool = self._quick if lasting_s is None else self._slow
        limit_s = 3 * self._settings.timeout_s + math.ceil(lasting_s or 0)
        answer = asyncio.wrap_future(pool.submit(self._run, work))
        try:
            return await asyncio.wait_for(answer, limit_s)
        except TimeoutError:
            text = f"the engine at {self._settings.base_url} did not answer within {limit_s} s"
            raise RuntimeUnreachable(text) from None

    async def close(self) -> None:
        """Let go of connections and threads; bounded, also if the engine hangs."""
        self._closed = True
        for pool in (self._quick, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)
        ended = threading.Thread(target=self._join, daemon=True)
        ended.start()
        await asyncio.to_thread(ended.join, CLOSE_S)

    def new_client(self) -> APIClient:
        """A client of the caller's own, who closes it; for a worker thread. Raises what docker and
        requests raise, or OSError, within twice `NEGOTIATION_S` seconds."""
        check_listening(self._settings.base_url)
        if self._version is None:
            self._version = self._negotiate()
        return self._client(self._version, self._settings.timeout_s)

    def _join(self) -> None:
        for pool in (self._quick, self._slow):
            pool.shutdown(wait=True)
        for client in self._clients:
            client.close()

    def _run(self, work: Callable[[APIClient], T]) -> T:
        try:
            return work(self._own_client())
        except APIError as error:
            if meaning_of(error) is Meaning.OTHER_VERSION:
                self._version = None
                raise unreachable(error, self._settings) from error
            raise
        except (DockerException, urllib3.exceptions.HTTPError, OSError) as error:
            # OSError is the base of all that requests raises.
            raise unreachable(error, self._settings) from error

    def _own_client(self) -> APIClient:
        """This thread's client, made anew when the engine speaks another version now. Raises as
        `new_client` does."""
        client: APIClient | None = getattr(self._own, "client", None)
        if client is None or client.api_version != self._version:
            client = self._own.client = self.new_client()
            self._clients.add(client)
        else:
            check_listening(self._settings.base_url)
        return client

    def _client(self, version: str, timeout_s: int) -> APIClient:
        client = APIClient(
            base_url=self._settings.base_url,
            version=version,
            timeout=timeout_s,
            tls=self._tls() or False,
        )
        # The environment's proxies are for the world outside, and its netrc for other services.
        client.trust_env = False
        return client

    def _tls(self) -> TLSConfig | None:
        tls = self._settings.tls
        if tls is None:
            return None
        own = None
        if tls.certificate is not None and tls.key is not None:
            own = (str(tls.certificate), str(tls.key))
        return TLSConfig(client_cert=own, ca_cert=str(tls.ca), verify=True)

    def _negotiate(self) -> str:
        """Ask, with little patience. The library itself would take the engine's newest version,
        whatever that is."""
        client = self._client("{}.{}".format(*NEWEST_API), NEGOTIATION_S)
        try:
            answer = client.version(api_version=False)
        finally:
            client.close()
        return version_to_speak(answer)


def check_listening(base_url: str) -> None:
    """Raises OSError if it is a unix socket and nobody listens there.

    The library would find that out, too, but leaves a socket open each time.
    """
    kind, _, path = base_url.partition("://")
    if kind == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(NEGOTIATION_S)
            probe.connect(path)


def version_to_speak(answer: Mapping[str, str]) -> str:
    """The version of the API for an engine that answers `answer` to "version": its newest, but none
    newer than what we know, unless it has dropped that."""
    newest, oldest = (
        tuple(map(int, answer.get(key, "1.24").split(".")))
        for key in ("ApiVersion", "MinAPIVersion")
    )
    return ".".join(map(str, max(oldest, min(newest, NEWEST_API))))
