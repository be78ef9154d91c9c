"""Follows an engine's events. They only wake: events get lost, and their stream ends silently."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading

import requests
import urllib3
from docker import APIClient
from docker.errors import DockerException
from docker.types import CancellableStream

from .docker_container import OWNER, label_filter
from .docker_engine import Engine
from .docker_settings import DockerSettings
from .wakes import RuntimeWatches

log = logging.getLogger(__name__)

CONNECT_S = 5
SILENCE_S = 20
"""A stream without events for this long is reopened, as its engine may hang; that wakes, too."""
LEAST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 3.0


class EventFollower:
    """A thread that wakes whoever waits for changes, and comes back after every loss."""

    def __init__(self, engine: Engine, settings: DockerSettings, wakes: RuntimeWatches) -> None:
        self._engine = engine
        self._settings = settings
        self._wakes = wakes
        self._loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        self._stream: CancellableStream[bytes] | None = None
        # A daemon, as it may be stuck for SILENCE_S in a request to an engine that hangs.
        self._thread = threading.Thread(target=self._follow, name="docker-events", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """End the thread, or leave it to its time-out if the engine hangs."""
        self._closed.set()
        if self._stream is not None:
            # The stream may be over, and its socket closed, at this very moment.
            with contextlib.suppress(OSError, AttributeError, DockerException):
                self._stream.close()
        await asyncio.to_thread(self._thread.join, 1.0)

    def _follow(self) -> None:
        pause_s = LEAST_PAUSE_S
        while not self._closed.is_set():
            try:
                with contextlib.closing(self._engine.new_client()) as client:
                    self._listen(client)
                pause_s = LEAST_PAUSE_S
            except requests.exceptions.ReadTimeout:
                pause_s = LEAST_PAUSE_S
            except (DockerException, urllib3.exceptions.HTTPError, OSError) as error:
                log.debug("the engine's events are lost", extra={"cause": str(error)})
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._closed.wait(pause_s)

    def _listen(self, client: APIClient) -> None:
        """Wake for every event until the stream ends. The library's own `events` has no time-out,
        and so never ends when the engine hangs."""
        filters = {"type": ["container"], **label_filter({OWNER: self._settings.owner})}
        with client.get(
            f"{client.base_url}/v{client.api_version}/events",
            params={"filters": json.dumps(filters)},
            stream=True,
            timeout=(CONNECT_S, SILENCE_S),
        ) as response:
            response.raise_for_status()
            self._stream = CancellableStream(response.iter_lines(), response)
            try:
                # What happened while nobody listened was missed.
                self._wake()
                # Asked after the stream was put where `close` finds it: one of the two sees it.
                while not self._closed.is_set() and next(self._stream, None) is not None:
                    self._wake()
            finally:
                self._stream = None

    def _wake(self) -> None:
        # The loop may have ended without a close.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wakes.wake)
