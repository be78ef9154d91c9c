"""The document is whole and true, and its page needs nobody else."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from gateway.problems import STATUS_OF
from tests.gateway.serving import System
from trillium.errors import Code

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMATHESIS_S = 300


async def test_every_grpc_code_has_the_status_that_google_documents() -> None:
    assert set(STATUS_OF) == set(Code)
    by_status: dict[int, set[str]] = {}
    for code, status in STATUS_OF.items():
        by_status.setdefault(status, set()).add(code.name)
    assert by_status == {
        400: {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"},
        401: {"UNAUTHENTICATED"},
        403: {"PERMISSION_DENIED"},
        404: {"NOT_FOUND"},
        409: {"ALREADY_EXISTS", "ABORTED"},
        429: {"RESOURCE_EXHAUSTED"},
        499: {"CANCELLED"},
        500: {"UNKNOWN", "INTERNAL", "DATA_LOSS"},
        501: {"UNIMPLEMENTED"},
        503: {"UNAVAILABLE"},
        504: {"DEADLINE_EXCEEDED"},
    }


async def test_everything_in_the_document_is_described(iris: System) -> None:
    document = iris.call.document
    ids = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ids.append(operation["operationId"])
            assert operation["summary"], (method, path)
            assert all(each["description"] for each in operation["parameters"])
    assert len(ids) == len(set(ids)) > 30
    schemas = document["components"]["schemas"]
    assert all(schema["description"] for schema in schemas.values())
    deployment = schemas["Deployment"]
    assert (
        deployment["properties"]["replica_count"]["description"] == "Desired number of predictors."
    )


async def test_the_page_fetches_from_nowhere_else(iris: System) -> None:
    for path in ("/docs", "/docs/page.css", "/docs/page.js"):
        answer = await iris.call.get(path)
        assert answer.status == 200
        assert not re.search(r"https?://|@import|//cdn", answer.text)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert (await iris.call.get("/docs/other.js")).status == 404


@pytest.mark.timeout(SCHEMATHESIS_S + 100)
@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        ("examples,fuzzing", 2),
        pytest.param("examples,coverage,fuzzing", 8, marks=pytest.mark.thorough),
    ],
)
async def test_schemathesis_finds_nothing(
    iris: System, tmp_path: Path, phases: str, examples: int
) -> None:
    # Left out: watches, which have no end; and the check that whatever fits the schema is done,
    # because a model that is not there, or a row that is too short, fits the schema. Headers that a
    # server does not know it must ignore, so no request is wrong for having one. Services that are
    # late return 504; 500 would be a defect. The catalog is empty, so nothing is started.
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        "[generation]\nallow-extra-parameters = false\n[checks]\n"
        'not_a_server_error.expected-statuses = ["2xx", "4xx", "501", "503", "504"]\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        f"--config-file={config}",
        "run",
        f"{iris.call.base}/openapi.json",
        "--exclude-path-regex=:watch$",
        "--exclude-checks=positive_data_acceptance",
        f"--phases={phases}",
        f"--max-examples={examples}",
        "--seed=1",
        "--generation-deterministic",
        "--suppress-health-check=all",
        "--no-color",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SCHEMATHESIS_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()[-6000:]
    operations = [path for path, all_ in iris.call.document["paths"].items() for _ in all_]
    watches = sum(path.endswith(":watch") for path in operations)
    assert f"Tested: {len(operations) - watches}\n" in output.decode()
