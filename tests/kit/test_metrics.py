"""Distributions count right, and metrics are served without holding anything up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scraping import scraped
from trillium.server import metrics
from trillium.server.figures import ROWS, SECONDS, Distribution, Family, Measure
from trillium.server.metrics import registry_of, serving_metrics
from trillium.server.process import StartFailed

CAKES = Measure("cakes_total", "counter", "How many cakes?", ("kind",))
BAKING = Measure("baking_seconds", "histogram", "How long do they bake?", ("kind",))
OVENS = Measure("ovens", "gauge", "How many ovens are hot?")


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(1, 5))))
def test_a_distribution_counts_each_value_once(values: list[tuple[float, int]]) -> None:
    counted = Distribution(SECONDS)
    for value, times in values:
        counted.add(value, times)
    bounds = (0.0, *SECONDS, float("inf"))
    for low, high, count in zip(bounds, bounds[1:], counted.counts, strict=False):
        within = (low < value <= high or value == low == 0 for value, _ in values)
        assert count == sum(
            times for (_, times), is_in in zip(values, within, strict=True) if is_in
        )
    assert counted.total == pytest.approx(sum(value * times for value, times in values))


def test_bounds_ascend() -> None:
    for bounds in (SECONDS, ROWS):
        assert list(bounds) == sorted(set(bounds))


def baked() -> Iterable[Family]:
    baking = Distribution((1.0, 2.5))
    for seconds in (0.5, 1.0, 2.0, 7.0):
        baking.add(seconds)
    return CAKES.of({('a "b"\n\\',): 3}), BAKING.of({("sponge",): baking}), OVENS.of({(): 2})


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "unix:{folder}/m.sock"])
async def test_what_was_counted_is_served(tmp_path: Path, listen: str) -> None:
    listen = listen.format(folder=tmp_path)
    async with serving_metrics(listen, registry_of(baked)) as address:
        seen = await scraped(address.replace("[::1]", "::1") if "[" in address else address)
    assert seen.value("cakes_total", kind='a "b"\n\\') == 3
    assert seen.value("ovens") == 2
    buckets = {
        each["le"]: seen.value("baking_seconds_bucket", **each)
        for each in seen.labels("baking_seconds_bucket")
    }
    assert buckets == {"1.0": 2, "2.5": 3, "+Inf": 4}
    assert seen.value("baking_seconds_sum", kind="sponge") == 10.5
    assert seen.value("process_resident_memory_bytes") > 1e6
    assert not os.listdir(tmp_path)


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartFailed, match=f"cannot serve metrics on {listen}: .* --metrics-li"):
            async with serving_metrics(listen, registry_of(baked)):
                pass


async def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/m.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(listen.removeprefix("unix:"))
    async with serving_metrics(listen, registry_of(baked)):
        assert (await scraped(listen)).value("ovens") == 2
        with pytest.raises(StartFailed, match="cannot serve metrics"):
            async with serving_metrics(listen, registry_of(baked)):
                pass
        assert (await scraped(listen)).value("ovens") == 2


async def test_whoever_does_not_ask_holds_others_up_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.2)
    async with serving_metrics("127.0.0.1:0", registry_of(baked)) as address:
        host, _, port = address.rpartition(":")
        silent = await asyncio.open_connection(host, int(port))
        try:
            assert (await scraped(address)).value("ovens") == 2
        finally:
            silent[1].close()


async def test_a_source_that_fails_fails_the_scrape_and_nothing_else() -> None:
    def broken() -> Iterable[Family]:
        raise RuntimeError("no figures today")

    async with serving_metrics("127.0.0.1:0", registry_of(broken)) as address:
        with pytest.raises(AssertionError):
            await scraped(address)
        with pytest.raises(AssertionError):
            await scraped(address)
