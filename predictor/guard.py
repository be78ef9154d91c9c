"""Stops runs on the event loop that turn out to be slow.

A run is expected to be quick by what its model took when it was warmed up, but what a run takes may
depend on the values of its rows. While one holds the event loop, nothing else happens: no
withdrawal, no health, no stop.
"""

from __future__ import annotations

import threading

from .onnx import RunHandle

LOOK_S = 0.05
"""A run that lasts from one look to the next is stopped: after one to two times this."""
_IDLE_LOOKS = 20
"""After this many looks without a run, the guard sleeps until the next one begins."""


class LoopGuard:
    """Watches the runs of one event loop from a thread of its own, which sleeps while there are
    none."""

    def __init__(self) -> None:
        self._running: RunHandle | None = None
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def began(self) -> RunHandle:
        """A run begins; the handle that it is to be run with."""
        handle = self._running = RunHandle()
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                # Not before: whoever forks this process may have no threads.
                self._thread = threading.Thread(
                    target=self._watch, name="guard of the event loop", daemon=True
                )
                self._thread.start()
        return handle

    def ended(self) -> None:
        """The run has ended."""
        self._running = None

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        before, idle = self._running, 0
        while not self._closed.wait(LOOK_S):
            now = self._running
            if now is not None and now is before:
                now.stop()
            idle = idle + 1 if now is None else 0
            if idle > _IDLE_LOOKS:
                self._wanted.clear()
                # One may have begun before that.
                if self._running is None:
                    self._wanted.wait()
                idle = 0
            before = now
