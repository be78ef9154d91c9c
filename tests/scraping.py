"""Metrics as Prometheus would see them."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """What one scrape has returned."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {each.name: each for each in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels, whatever other ones they have."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str) -> list[Mapping[str, str]]:
        """The labels of each sample of that name."""
        return [
            sample.labels
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        ]


def _text(listen: str) -> str:
    path = listen.removeprefix("unix:")
    connection = http.client.HTTPConnection(path if path == listen else "metrics", timeout=20)
    if path != listen:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(20)
        connection.sock.connect(path)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, body
        return body
    finally:
        connection.close()


async def scraped(listen: str) -> Scrape:
    """The metrics that are served at an address."""
    return Scrape(await asyncio.to_thread(_text, listen))
