"""`python -m trillium.healthcheck ADDRESS...`: does a server report SERVING?

For HEALTHCHECK in an image, and for people. Of several addresses, one that serves is enough: the
image does not know which service its container runs, and only that one listens. Prints one
line. Instead of an address, `http://host:port/path` is asked for a 200. Exit status: 0 when it
serves, 1 when not, 2 when the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trillium.client.credentials import access_of
from trillium.rpc.channels import link_channel
from trillium.server.config import address, seconds

SERVING = "SERVING"
_HTTP = "http://"


async def status_of(address: str, service: str = "", *, deadline_s: float = 3.0) -> str:
    """The status of `service` ("" is the whole server): "SERVING" or another name of a
    ServingStatus; or, if no answer came in time, the reason as a sentence."""
    if address.startswith(_HTTP):
        return await asyncio.to_thread(_http_status, address, deadline_s)
    async with link_channel(address, access_of()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await stub.Check(request, timeout=deadline_s)
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _http_status(url: str, deadline_s: float) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=deadline_s)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"UNAVAILABLE: {error}"
    finally:
        connection.close()
    return SERVING if status == http.client.OK else f"HTTP {status}"


def _place(text: str) -> str:
    """Parses an address, or the URL of a health page."""
    if not text.startswith(_HTTP):
        return address(text)
    parts = urlsplit(text)
    address(parts.netloc)
    return text


async def check(addresses: Sequence[str], service: str, deadline_s: float) -> tuple[bool, str]:
    """Whether one of `addresses` serves, and a line with the status of what was found."""
    asked = (status_of(each, service, deadline_s=deadline_s) for each in addresses)
    statuses = dict(zip(addresses, await asyncio.gather(*asked), strict=True))
    serving = [each for each, status in statuses.items() if status == SERVING]
    shown = serving[:1] or list(statuses)
    return bool(serving), "; ".join(f"{each}: {statuses[each]}" for each in shown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trillium.healthcheck",
        description="Ask a server's grpc.health.v1.Health whether it is SERVING.",
    )
    text = "host:port, unix:/path or http://host:port/path; of several, one that serves is enough"
    parser.add_argument("addresses", nargs="+", type=_place, metavar="ADDRESS", help=text)
    text = "service to ask for; without it, the whole server"
    parser.add_argument("--service", default="", help=text)
    text = "how long to wait for the answer (default 3)"
    parser.add_argument("--deadline-s", type=seconds(0.01, 3600), default=3.0, help=text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit status."""
    options = _parser().parse_args(arguments)
    healthy, line = asyncio.run(check(options.addresses, options.service, options.deadline_s))
    print(" ".join(line.split()))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
