"""Ensembles over HTTP: applied, scored, rolled back, split and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from tests.gateway.serving import Caller, System, gateway_before
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROW = [5.1, 3.5, 1.4, 0.2]
PATH = "/v1/ensembles/flowers"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def call(stocked: System) -> AsyncIterator[Caller]:
    """Calls of a gateway before the controller and an aggregator that follows it."""
    async with AsyncExitStack() as stack:
        config = AggregatorConfig((), listen="127.0.0.1:0", controller=stocked.controller)
        door = await stack.enter_async_context(running_aggregator(config))
        _, call = await stack.enter_async_context(gateway_before(door.address, stocked.controller))
        yield call


def classes(*labels: str) -> dict[str, Any]:
    return {"classes": [{"model": f"iris-{label}"} for label in labels]}


async def test_an_ensemble_lives_over_http(call: Caller) -> None:
    plan = await call.post(f"{PATH}:plan", classes("setosa", "virginica"))
    assert (plan.status, plan.json["changes"]) == (200, True)
    assert (await call.get(f"{PATH}/status")).status == 404
    made = await call.put(PATH, classes("setosa", "virginica"))
    assert (made.status, made.json["state"]) == (200, "SERVING"), made.json
    assert made.json["traffic"] == [{"revision": 1, "percent": 100}]
    again = await call.put(PATH, classes("setosa", "virginica"))
    assert again.json["etag"] == made.json["etag"]

    async def answers_as(revision: int, pinned: int = 0) -> bool:
        asked = {"instances": [ROW], "revision": pinned}
        answer = await call.post(f"{PATH}:classify", asked)
        if answer.status != 200:
            assert answer.status in (404, 503), answer.json
            return False
        assert answer.headers["trillium-revision"] == str(answer.json["revision"])
        assert answer.json["classifications"][0]["label"] == "setosa"
        return bool(answer.json["revision"] == revision)

    await eventually(lambda: answers_as(1))
    more = await call.put(PATH, classes("setosa", "versicolor", "virginica") | {"note": "all"})
    assert more.json["traffic"] == [{"revision": 2, "percent": 100}]
    await eventually(lambda: answers_as(2))
    assert await answers_as(1, pinned=1)
    model = "/v2/models/flowers/versions/1"
    asked = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}
    inferred = await call.post(f"{model}/infer", asked)
    assert (inferred.status, inferred.json["model_version"]) == (200, "1"), inferred.json
    assert inferred.json["outputs"][0]["shape"] == [1, 2]
    assert (await call.get("/v2/models/flowers")).json["versions"] == ["1", "2"]
    back = await call.post(f"{PATH}:rollback")
    assert back.json["traffic"] == [{"revision": 1, "percent": 100}]
    split = {"traffic": [{"revision": 1, "percent": 90}, {"revision": 2, "percent": 10}]}
    assert (await call.post(f"{PATH}:update", split)).json["traffic"] == split["traffic"]
    revisions = (await call.get(f"{PATH}/revisions")).json["revisions"]
    assert [(each["number"], each["note"]) for each in revisions] == [(2, "all"), (1, "")]
    assert (await call.get(f"{PATH}/revisions/2")).json == revisions[0]
    listed = (await call.get("/v1/ensemble-statuses")).json["ensembles"]
    assert [each["name"] for each in listed] == ["ensembles/flowers"]
    checked = await call.delete(f"{PATH}?validate_only=true")
    assert len(checked.json["deployments"]) == 3
    assert (await call.delete(PATH)).json == checked.json
    assert (await call.get(f"{PATH}/status")).status == 404


async def test_wrong_requests_are_refused_by_name(call: Caller) -> None:
    empty = await call.put(PATH, {"classes": []})
    assert (empty.status, list(empty.fields)) == (400, ["classes"])
    wrong = await call.put(PATH, classes("rose"))
    assert (wrong.status, wrong.json["reason"]) == (404, "MODEL_NOT_FOUND")
    twice = await call.put(PATH, classes("setosa", "setosa"))
    assert (twice.status, list(twice.fields)) == (400, ["classes[1].model"])
    none = await call.post(f"{PATH}:rollback", {"revision": 3})
    assert (none.status, none.json["reason"]) == (404, "ENSEMBLE_NOT_FOUND")
    stale = await call.put(PATH, classes("setosa") | {"etag": "old"})
    assert (stale.status, stale.json["reason"]) == (409, "ENSEMBLE_CHANGED")
