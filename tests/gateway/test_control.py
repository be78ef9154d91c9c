"""Deployments, runs and their results over HTTP, with a real controller and real predictors."""

from __future__ import annotations

import csv
import io
import sys
from typing import Any

import pyarrow.parquet as pq
import pytest

from gateway.inference_router import id_of
from tests.gateway.serving import System

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "iris-setosa"


async def test_a_deployment_lives_and_is_watched(stocked: System) -> None:
    call = stocked.call
    async with call.events("/v1/deployments:watch?deployment=life") as events:

        async def until(state: str) -> None:
            """Read up to that state; of others that do not last, some may not be reported."""
            reached = None
            while reached != state:
                event = await events.next()
                assert event is not None
                kind, deployment = event
                assert kind == "deployment"
                reached = deployment["state"]

        assert await events.next() == ("snapshot_end", {})
        made = await call.post("/v1/deployments", {"deployment_id": "life", "model": MODEL})
        assert (made.status, made.json["state"]) == (201, "CREATED")
        assert made.headers["location"] == "/v1/deployments/life"
        assert (await call.get(made.headers["location"])).json["name"] == "deployments/life"
        await until("CREATED")
        assert (await call.post("/v1/deployments/life:load")).json["state"] == "LOADED"
        await until("LOADED")
        listed = (await call.get(f"/v1/deployments?states=LOADED&model={MODEL}")).json
        assert [each["name"] for each in listed["deployments"]] == ["deployments/life"]
        scaled = await call.post("/v1/deployments/life:update", {"replica_count": 2})
        assert (scaled.status, scaled.json["state"], scaled.json["replica_count"]) == (
            200,
            "LOADED",
            2,
        )
        wrong = await call.post("/v1/deployments/life:update", {"replica_count": 0})
        assert list(wrong.fields) == ["replica_count"]
        body = {"request_id": "once"}
        assert (await call.post("/v1/deployments/life:unload", body)).json["state"] == "CREATED"
        await until("CREATED")
        ended = await call.post("/v1/deployments/life:terminate", {"no_wait": True})
        assert ended.json["target"] == "ABSENT"
        await until("TERMINATED")
    history = (await call.get("/v1/deployments/life/events?page_size=1")).json
    assert history["events"][0]["cause"] == "create was requested"
    assert history["next_page_token"]


async def test_errors_of_the_controller_keep_their_reasons(stocked: System) -> None:
    call = stocked.call
    lost = await call.get("/v1/deployments/none")
    assert (lost.status, lost.json["reason"]) == (404, "DEPLOYMENT_NOT_FOUND")
    unknown = await call.post("/v1/deployments", {"model": "roses"})
    assert (unknown.status, unknown.json["reason"]) == (404, "MODEL_NOT_FOUND")
    order = {"run_id": "other", "model": MODEL, "dataset": "iris", "no_wait": True}
    assert (await call.post("/v1/runs", order)).status == 201
    exists = await call.post("/v1/runs", {**order, "model": "iris-virginica"})
    assert (exists.status, exists.json["reason"]) == (409, "RUN_EXISTS")
    watch = await call.get("/v1/runs/none:watch")
    assert (watch.status, watch.json["reason"]) == (404, "RUN_NOT_FOUND")
    assert (await call.post("/v1/runs/other:cancel")).status == 200


async def test_a_watch_ends_when_its_time_is_up(stocked: System) -> None:
    headers = {"request-timeout": "5"}
    async with stocked.call.events("/v1/deployments:watch", **headers) as events:
        received = [kind for kind, _ in await events.rest()]
    # Other tests' deployments may still change, but nothing else may come, and no problem.
    assert "snapshot_end" in received
    assert set(received) <= {"deployment", "snapshot_end"}


async def test_a_run_is_watched_to_its_end_and_its_results_come_in_every_form(
    stocked: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = stocked.call
    order = {"run_id": "all", "model": MODEL, "dataset": "iris", "no_wait": True}
    assert (await call.post("/v1/runs", order)).status == 201
    async with call.events("/v1/runs/all:watch") as events:
        received = await events.rest()
    assert {kind for kind, _ in received} == {"run"}
    assert received[-1][1]["state"] == "SUCCEEDED"
    assert received[-1][1]["evaluation"]["accuracy"] == 1.0

    rows = await _pages(stocked, "all")
    assert len(rows) == 150
    download = "/v1/runs/all/results:download"
    assert (await call.get(f"{download}?format=json")).json == rows
    as_csv = await call.get(download)
    assert as_csv.headers["content-disposition"] == 'attachment; filename="all.csv"'
    lines = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert [
        {"row": int(each["row"]), "probability": float(each["probability"]), "label": each["label"]}
        for each in lines
    ] == rows
    parquet = await call.get(f"{download}?format=parquet")
    table = pq.read_table(io.BytesIO(parquet.raw))
    assert table.column("row").to_pylist() == list(range(150))
    assert table.column("label").to_pylist() == [each["label"] for each in rows]
    assert table.column("probability").to_pylist() == pytest.approx(
        [each["probability"] for each in rows], rel=1e-6
    )
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused = await call.get(f"{download}?format=parquet")
    assert (refused.status, refused.json["reason"]) == (501, "NO_PARQUET")
    wrong = await call.get(f"{download}?format=xml")
    assert list(wrong.fields) == ["format"]


async def _pages(stocked: System, run: str) -> list[Any]:
    """All results of a run, sixty at a time."""
    rows: list[Any] = []
    token = ""
    while True:
        path = f"/v1/runs/{run}/results?page_size=60&page_token={token}"
        page = (await stocked.call.get(path)).json
        rows += page["results"]
        token = page["next_page_token"]
        if not token:
            return rows


async def test_runs_models_datasets_and_servers_are_listed(stocked: System) -> None:
    call = stocked.call
    models = (await call.get("/v1/models?page_size=2")).json
    assert [each["name"] for each in models["models"]] == ["iris-setosa", "iris-versicolor"]
    rest = (await call.get(f"/v1/models?page_token={models['next_page_token']}")).json
    assert [each["name"] for each in rest["models"]] == ["iris-virginica"]
    datasets = (await call.get("/v1/datasets")).json["datasets"]
    assert datasets[0]["versions"][0]["row_count"] == 150
    assert (await call.get("/v1/servers")).json["servers"][0]["runtime"] == "process"
    assert (await call.get("/v1/runs?states=FAILED")).json["runs"] == []


def routed(operation: str, **changes: Any) -> dict[str, Any]:
    """A body of the older routing service."""
    body = {"job_id": "job1", "model": MODEL, "dataset": "iris", "container_id": "0a1b2c"}
    return {**body, "operation_type": operation, **changes}


async def test_the_older_routing_service_s_five_calls_work_in_sequence(stocked: System) -> None:
    place = "/inference_router/"
    states = []
    for operation in ("DEPLOY_CREATE", "DEPLOY_LOAD", "DEPLOY_UNLOAD", "TERMINATE"):
        answer = await stocked.call.post(place, routed(operation))
        assert answer.json["name"] == "deployments/job1"
        states.append(answer.json["state"])
    assert states == ["CREATED", "LOADED", "CREATED", "TERMINATED"]
    run = (await stocked.call.post(place, routed("TEMP"))).json
    assert (run["name"], run["state"], run["rows_done"]) == ("runs/job1", "SUCCEEDED", 150)


async def test_a_container_of_another_job_is_refused(stocked: System) -> None:
    place = "/inference_router/"
    owner = await stocked.call.post(place, routed("DEPLOY_CREATE", job_id="owner"))
    container = owner.json["instances"][0]["container_id"]
    assert container
    answer = await stocked.call.post(place, routed("TERMINATE", container_id=container))
    assert "deployments/owner" in answer.fields["container_id"]
    own = routed("TERMINATE", job_id="owner", container_id=container)
    assert (await stocked.call.post(place, own)).json["state"] == "TERMINATED"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"operation_type": "DEPLOY"}, "operation_type"),
        ({"job_id": ""}, "job_id"),
        ({"model": ""}, "model"),
        ({"operation_type": "TEMP", "dataset": None}, "dataset"),
        ({"job_id": 1.5}, "job_id"),
    ],
)
async def test_a_wrong_call_of_the_older_service_is_reported(
    stocked: System, changes: Any, field: str
) -> None:
    answer = await stocked.call.post("/inference_router/", routed("DEPLOY_CREATE", **changes))
    assert answer.status == 400
    assert field in answer.fields


@pytest.mark.parametrize("job_id", ["a1", "a" * 32, "my-job-7"])
async def test_a_job_id_that_may_be_an_id_stays(job_id: str) -> None:
    assert id_of(job_id) == job_id


async def test_other_job_ids_are_made_ids_that_stay_apart() -> None:
    ids: list[str | int] = [17, "Job_1", "job-1-", "ü", "a" * 33, "a" * 34, "A" * 33, "-", "17 "]
    made = [id_of(each) for each in ids]
    assert len(set(made)) == len(made)
    assert all(id_of(each) == each for each in made)
    assert id_of("17") == id_of(17)


async def test_what_nothing_uses_is_deleted(stocked: System) -> None:
    async def delete(path: str) -> Any:
        return await stocked.call.call("DELETE", path)

    call = stocked.call
    model = f"/v1/models/{MODEL}"
    checked = await delete(f"{model}?validate_only=true")
    assert checked.status == 200
    assert int(checked.json["freed_bytes"]) > 0
    only = await delete(f"{model}/versions/1")
    assert (only.status, only.json["reason"]) == (400, "IN_USE")
    missing = await delete(f"{model}/versions/7")
    assert (missing.status, missing.json["reason"]) == (404, "MODEL_NOT_FOUND")
    assert (await delete("/v1/models/none")).json["reason"] == "MODEL_NOT_FOUND"
    assert (await delete("/v1/datasets/none")).json["reason"] == "DATASET_NOT_FOUND"
    assert (await delete("/v1/datasets/iris?validate_only=true")).status == 200
    made = await call.post("/v1/runs", {"run_id": "gone", "model": MODEL, "dataset": "iris"})
    path = made.headers["location"]
    assert (made.status, path) == (201, "/v1/runs/gone")
    assert (await delete(f"{path}?validate_only=true")).json == {"deleted_rows": 150}
    assert (await delete(path)).json == {"deleted_rows": 150}
    assert (await call.get(path)).json["reason"] == "RUN_NOT_FOUND"
    assert (await delete(path)).status == 404
