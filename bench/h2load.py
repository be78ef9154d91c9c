"""The load generator: nghttp2's h2load, which takes little CPU of its own and a prebuilt body.

It cannot see a gRPC status, so the bytes of all answers are added up: an error has no body.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FRAME = struct.Struct(">BI")
_PATIENCE_S = 120.0
_GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")
_PLAIN_HTTP = ("--h1", "-H", "content-type: application/json")


class Failed(Exception):
    """A slice that does not count, and why."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: so many connections, each with so many requests at once."""

    name: str
    connections: int
    streams: int
    rows: int = 1
    """In each request."""


LOADS = (
    Load("c1", 1, 1),
    Load("c8", 8, 1),
    Load("c16", 16, 1),
    Load("c64", 8, 8),
    Load("c256", 16, 16),
    Load("rows1024", 1, 1, 1024),
)


@dataclass(frozen=True, slots=True)
class Slice:
    """What one burst of requests took."""

    requests: int
    took_s: float
    latencies_s: NDArray[np.float64]
    """Of each request, in no order."""


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it over HTTP/2."""
    return _FRAME.pack(0, len(message)) + message


def burst(
    address: str,
    method: str,
    message: bytes,
    answer_bytes: int,
    load: Load,
    count: int,
    folder: Path,
    *,
    plain_http: bool = False,
) -> Slice:
    """Send `count` requests; raises Failed unless every one got an answer of the right length.

    Over plain HTTP every request at once has a connection of its own.
    """
    program = shutil.which("h2load")
    if program is None:
        raise Failed("there is no h2load: apt-get install nghttp2-client")
    count = max(count, load.connections * load.streams)
    body, log = folder / "body", folder / "h2load.log"
    body.write_bytes(message if plain_http else framed(message))
    log.unlink(missing_ok=True)
    # With --h1, more than one stream would mean pipelining, which servers answer one by one.
    connections, streams = load.connections, load.streams
    if plain_http:
        connections, streams = connections * streams, 1
    command = [
        program,
        *("-c", str(connections), "-m", str(streams), "-n", str(count)),
        *("-d", str(body), "--log-file", str(log)),
        *(_PLAIN_HTTP if plain_http else _GRPC),
        f"http://{address}{method}",
    ]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{count} requests took longer than {_PATIENCE_S:g} s") from error
    said = ended.stdout
    took = re.search(r"finished in ([\d.]+)(s|ms|us)", said)
    done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    data = re.search(r"\((\d+)\) data", said)
    if ended.returncode or took is None or done is None or data is None:
        raise Failed(f"h2load ended with {ended.returncode}: {said[-500:]}{ended.stderr[-500:]}")
    if int(done[1]) != count:
        raise Failed(f"of {count} requests {done[0]}")
    wanted = count * (answer_bytes + (0 if plain_http else _FRAME.size))
    if int(data[1]) != wanted:
        raise Failed(f"the answers to {count} requests have {data[1]} bytes, not {wanted}")
    unit = {"s": 1.0, "ms": 1e-3, "us": 1e-6}[took[2]]
    # Lines of: start in µs since the epoch, HTTP status, duration in µs.
    latencies = np.loadtxt(log, usecols=2, ndmin=1) / 1e6
    return Slice(count, float(took[1]) * unit, latencies)
