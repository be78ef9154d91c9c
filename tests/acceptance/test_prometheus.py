"""A real Prometheus scrapes every service, and the rules that ship with Trillium hold."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.iris import IRIS
from tests.acceptance.processes import aggregator, predictor, started
from tests.ports import free_ports
from tests.trained import trained
from tests.waiting import eventually
from trillium.client.aio import AsyncClient
from trillium.client.controller import AsyncControllerClient

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
CLASSIFIED = (
    'rpc_server_call_duration_seconds_count{job="trillium-aggregator",'
    'rpc_method="trillium.aggregator.v1.AggregatorService/Classify"}'
)
RULES = ROOT / "deploy/prometheus/trillium.rules.yaml"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Prometheus, by the project's own script."""
    subprocess.run([ROOT / "scripts/prometheus.sh"], check=True, timeout=250)


def test_the_rules_are_right() -> None:
    for command in (
        ("check", "rules", "--lint-fatal", str(RULES)),
        ("test", "rules", "rules_test.yaml"),
    ):
        done = subprocess.run(
            ["promtool", *command],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, str]) -> AsyncIterator[str]:
    """A server that scrapes these jobs each second. Yields the base of its URLs."""
    (port,) = free_ports(1)
    jobs = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
    # JSON is YAML, too.
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


def _got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


async def queried(base: str, expression: str) -> list[Any]:
    """The result of a query."""
    asked = urllib.parse.urlencode({"query": expression})
    answer = await asyncio.to_thread(_got, f"{base}/api/v1/query?{asked}")
    assert answer["status"] == "success"
    result: list[Any] = answer["data"]["result"]
    return result


async def has(base: str, expression: str, value: float) -> bool:
    """Whether the sum of what a query returns is that."""
    result = await queried(base, expression)
    return sum(float(each["value"][1]) for each in result) == value


async def test_prometheus_sees_every_service(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = trained(tmp_path_factory, "iris")
    ports = free_ports(4)
    metrics = {
        f"trillium-{name}": f"127.0.0.1:{port}"
        for name, port in zip(
            ("predictor", "aggregator", "controller", "gateway"), ports, strict=True
        )
    }

    def told(name: str) -> tuple[str, str]:
        return "--metrics-listen", metrics[f"trillium-{name}"]

    async with AsyncExitStack() as stack:
        addresses = []
        for label in IRIS:
            more = told("predictor") if label == "setosa" else ()
            command = (*predictor(models / f"iris-{label}.onnx", 0), *more)
            server = await stack.enter_async_context(started(*command))
            addresses.append((label, await server.serves()))
        front = await stack.enter_async_context(
            started(*aggregator(addresses, "--workers", "2", *told("aggregator")))
        )
        at = await front.serves()
        store = f"--store=sqlite:{tmp_path}/store.db"
        controller = await stack.enter_async_context(
            started("controller", "--listen", "127.0.0.1:0", store, *told("controller"))
        )
        controller_at = await controller.serves()
        gateway = await stack.enter_async_context(
            started(
                *("gateway", "--listen", "127.0.0.1:0", *told("gateway")),
                *("--aggregator", at, "--controller", controller_at),
            )
        )
        gateway_at = await gateway.serves()
        base = await stack.enter_async_context(prometheus(tmp_path, metrics))

        async def is_up() -> bool:
            try:
                return len(await queried(base, "up == 1")) == len(metrics)
            except OSError:
                return False

        await eventually(is_up, 60)
        async with AsyncClient(at) as client:
            for _ in range(20):
                await client.classify([[5.1, 3.5, 1.4, 0.2]], timeout_s=60)
        async with AsyncControllerClient(controller_at) as control:
            assert [each async for each in control.deployments()] == []
        await asyncio.to_thread(_got, f"http://{gateway_at}/health/all")

        for expression, value in (
            (CLASSIFIED, 20),
            ('trillium_predictions_total{label="setosa"}', 20),
            ('trillium_class_seconds_count{phase="run",class="virginica"}', 20),
            ('trillium_model_rows_total{class="setosa"}', 20),
            ('sum(trillium_predictor_state{state="ready"})', 6),
            ('http_server_request_duration_seconds_count{http_route="/health/all"}', 1),
            ("trillium_endpoints", 0),
        ):
            await eventually(partial(has, base, expression, value), 60)
        # Every metric that a rule asks for is told by somebody, but for what has not happened.
        quiet = {"trillium_instances", "trillium_failing_tasks"}
        told_names = {
            each["metric"]["__name__"] for each in await queried(base, '{__name__=~".+"}')
        }
        text = re.sub(r"(?s)annotations:.*?(?=- alert|\Z)", "", RULES.read_text())
        asked = set(re.findall(r"\b((?:trillium|rpc_server)_[a-z_]+)(?=[{\[ )]|$)", text))
        assert asked
        assert asked - quiet <= told_names
