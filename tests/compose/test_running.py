"""The whole of compose.yaml on a real engine: used, changed, and hurt."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.compose.system import (
    AGGREGATOR,
    CONTROLLER,
    FLOWER,
    LABELS,
    ONE_SHOT,
    ROOT,
    ROWS,
    RUNS,
    SERVICES,
    Load,
    System,
    by_service,
    grpcurl,
)
from tests.controller.catalogs import model_upload
from tests.sound_artifacts import large
from tests.waiting import eventually
from trillium import Client
from trillium.controller.v1 import catalog_service_pb2_grpc
from trillium.errors import PredictorsFailed
from trillium.rpc.channels import Access, client_channel

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_all_of_it_is_there_and_healthy(system: System) -> None:
    assert system.left() == {"containers": 8, "made": 0, "networks": 3, "volumes": 2}
    assert set(by_service(system.containers())) == set(SERVICES)
    assert system.is_healthy(*SERVICES)


def test_every_container_has_what_the_definition_asks_for(system: System) -> None:
    for name, facts in by_service(system.containers()).items():
        host = facts["HostConfig"]
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["Memory"] == host["MemorySwap"] > 0, name
        assert host["NanoCpus"] > 0, name
        assert host["PidsLimit"] > 0, name
        restarts = "no" if name in ONE_SHOT else "unless-stopped"
        assert host["RestartPolicy"]["Name"] == restarts, name
        assert facts["Config"]["User"] == ("999:999" if name == "mongo" else "10001:10001"), name
        bindings = [each for ports in (host["PortBindings"] or {}).values() for each in ports]
        is_door = name in ("aggregator", "controller", "gateway")
        assert [each["HostIp"] for each in bindings] == ["127.0.0.1"] * is_door, name
        mounts = {each["Destination"] for each in facts["Mounts"]}
        wanted = {
            "aggregator": {"/credentials"},
            "controller": {"/var/run/docker.sock", "/credentials"},
            "credentials": {"/credentials"},
            "mongo": {"/data/db"},
        }
        assert mounts == wanted.get(name, set()), name


@pytest.mark.parametrize("service", ["predictor-setosa", "aggregator", "controller", "gateway"])
def test_a_service_can_write_nowhere_but_to_a_small_tmp(system: System, service: str) -> None:
    program = """
import errno, os
for path in ("/srv/trillium/x", "/opt/trillium/x", "/etc/x", "/x"):
    try:
        open(path, "w")
    except OSError as error:
        assert error.errno == errno.EROFS, error
    else:
        raise SystemExit(f"{path} can be written")
try:
    with open("/tmp/full", "wb") as file:
        for _ in range(65):
            file.write(bytes(2**20))
except OSError as error:
    print(errno.errorcode[error.errno])
finally:
    os.remove("/tmp/full")
"""
    assert system.run_in(service, "python", "-c", program) == "ENOSPC\n"


def test_what_orphans_leave_behind_is_reaped(system: System) -> None:
    program = """
import os, sys, time
reading, writing = os.pipe()
if os.fork() == 0:
    grandchild = os.fork()
    if grandchild == 0:
        os.read(reading, 1)
        os._exit(0)
    print(grandchild, flush=True)
    os._exit(0)
os.wait()
os.write(writing, b"x")
"""
    pid = int(system.run_in("predictor-setosa", "python", "-c", program))
    gone = f"import os, sys; sys.exit(os.path.exists('/proc/{pid}'))"
    system.run_in("predictor-setosa", "sh", "-c", f'until python -c "{gone}"; do :; done')


def test_curl_gets_in_by_the_gateway(system: System) -> None:
    script = [str(ROOT / "scripts/smoke_http.sh"), system.gateway]
    environment = {**os.environ, "SMOKE_TOKEN": system.token}
    done = subprocess.run(
        script, check=False, capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("15 checks passed\n")


def test_grpcurl_is_taught_the_api_and_answered(system: System) -> None:
    for address, service in (
        (system.aggregator, AGGREGATOR),
        (system.controller, CONTROLLER),
        (system.controller, RUNS),
    ):
        # Scoring is open to whoever gets to the door, and what it describes.
        bearing = () if address == system.aggregator else system.bearing
        assert service in grpcurl(*bearing, address, "list").split()
        assert "rpc " in grpcurl(*bearing, address, "describe", service)
        asked = ("-d", f'{{"service":"{service}"}}', address, "grpc.health.v1.Health/Check")
        check = grpcurl(*bearing, *asked)
        assert '"SERVING"' in check
    classified = grpcurl("-d", FLOWER, system.aggregator, f"{AGGREGATOR}/Classify")
    assert re.search(r'"label": "setosa",\s+"probability": 0\.99', classified)
    message = grpcurl(system.aggregator, "describe", "trillium.aggregator.v1.PredictRequest")
    assert "allow_partial" in message
    predicted = grpcurl("-d", FLOWER, system.aggregator, f"{AGGREGATOR}/Predict")
    assert all(label in predicted for label in LABELS)


def test_the_readmes_call_answers_what_the_readme_says(system: System) -> None:
    text = (ROOT / "README.md").read_text()
    call, answer = re.findall(
        r"(?s)\$ grpcurl -plaintext -d '([^']+)' \\\n\s+localhost:50051 \S+\n(\{.*?\n\})", text
    )[0]
    said = grpcurl("-d", call, system.aggregator, f"{AGGREGATOR}/Classify")
    # The predictors of compose are named one by one: an ensemble without revisions.
    shown = answer.replace(',\n  "revision": 1\n}', "\n}")
    assert shown != answer
    probability = re.compile(r"0\.\d+")
    assert probability.sub("p", said.strip()) == probability.sub("p", shown)
    first, second = (float(probability.findall(each)[0]) for each in (said, shown))
    assert first == pytest.approx(second, abs=1e-3)


async def test_a_deployment_is_created_loaded_asked_unloaded_and_terminated(
    system: System,
) -> None:
    with Load(system.aggregator) as load:
        created = system.control("CreateDeployment", deployment_id="life", model="iris-setosa")
        assert created["state"] == "STATE_CREATED"
        (made,) = system.made()
        assert made["Id"] == created["instances"][0]["containerId"]
        assert list(made["NetworkSettings"]["Networks"]) == [f"{system.project}_predictors"]
        loaded = system.control("LoadDeployment", name="deployments/life")
        assert loaded["state"] == "STATE_LOADED"
        where = loaded["instances"][0]["address"]
        await eventually(lambda: where in system.addresses())
        await eventually(load.more())
        unloaded = system.control("UnloadDeployment", name="deployments/life")
        assert unloaded["state"] == "STATE_CREATED"
        assert where not in system.addresses()
        ended = system.control("TerminateDeployment", name="deployments/life")
        assert ended["state"] == "STATE_TERMINATED"
        assert system.made() == []
    assert load.failures == []


async def test_a_run_has_a_predictor_of_its_own_and_leaves_its_results(system: System) -> None:
    run = system.control(f"{RUNS}/CreateRun", model="iris-setosa", dataset="iris")
    assert (run["state"], run["temporary"]) == ("RUN_STATE_SUCCEEDED", True)
    assert (run["rowsDone"], run["rowsTotal"]) == ("150", "150")
    assert run["evaluation"]["accuracy"] > 0.9
    await eventually(lambda: system.made() == [])
    first = system.control(f"{RUNS}/ListResults", run=run["name"], page_size=200)["results"]
    assert len(first) == 150
    assert first[0]["probability"] > 0.5 > first[149].get("probability", 0)


@pytest.mark.parametrize("label", LABELS)
async def test_a_predictor_that_is_killed_is_named_and_comes_back(
    system: System, label: str
) -> None:
    service = f"predictor-{label}"
    before = system.container(service)
    with Load(system.aggregator) as load, Client(system.aggregator, timeout_s=10) as client:
        await eventually(load.more())
        assert load.failures == []
        system.kill(service)
        await eventually(restarted(system, before), 60)
        # The next answer with all classes comes from its successor.
        await eventually(load.more(), 60)
        assert client.predict(ROWS, allow_partial=True).missing == ()
    # A call that the death met in the middle of a write may have waited for the successor.
    for failure in load.failures:
        assert isinstance(failure, PredictorsFailed), failure
        assert {each.class_label for each in failure.failures} == {label}
    assert list(system.labels()) == LABELS


@pytest.mark.parametrize("command", ["stop", "kill"])
async def test_a_stopped_class_leaves_the_others_probabilities_and_no_guessed_label(
    system: System, command: str
) -> None:
    with Client(system.aggregator, timeout_s=10) as client:
        system.compose(command, "predictor-virginica")
        try:
            answer = client.predict(ROWS, allow_partial=True)
            assert answer.class_labels == ("setosa", "versicolor")
            assert [each.class_label for each in answer.missing] == ["virginica"]
            assert list(client.classify(ROWS, allow_partial=True).labels) == [None] * 3
            with pytest.raises(PredictorsFailed, match="virginica"):
                client.predict(ROWS)
            assert not client.is_serving()
        finally:
            system.compose("start", "predictor-virginica")
        await eventually(client.is_serving, 60)
        assert list(client.classify(ROWS).labels) == LABELS


async def test_a_scaled_service_is_used_whole_and_no_call_fails_meanwhile(system: System) -> None:
    scale = ("up", "--detach", "--wait", "--no-recreate", "--scale")
    service = "predictor-setosa"

    def received() -> dict[str, int]:
        """Bytes that each predictor of the class has received."""
        stats = {each["Id"]: system.api.stats(each["Id"], stream=False) for each in replicas}
        return {id: each["networks"]["eth0"]["rx_bytes"] for id, each in stats.items()}

    with ExitStack() as stack:
        loads = [stack.enter_context(Load(system.aggregator)) for _ in range(4)]
        system.compose(*scale, f"{service}=3", service)
        replicas = system.containers(service)
        assert len(replicas) == 3
        await eventually(lambda: len(system.addresses()) == 5, 60)
        before = received()
        for load in loads:
            await eventually(load.more(100), 60)
        after = received()
        # A request of three rows has more than 100 bytes; at rest there is next to nothing.
        assert all(after[id] - before[id] > 2000 for id in before), (before, after)
        # One at a time, so that each is seen to go while there are calls.
        for left in (2, 1):
            system.compose(*scale, f"{service}={left}", service)
            await eventually(partial(has_predictors, system, 2 + left), 60)
            for load in loads:
                await eventually(load.more(), 60)
    assert [failure for load in loads for failure in load.failures] == []


async def test_an_aggregator_that_is_killed_comes_back(system: System) -> None:
    before = system.container("aggregator")
    with Load(system.aggregator) as load:
        await eventually(load.more())
        system.kill("aggregator")
        await eventually(restarted(system, before), 60)
        await eventually(load.more(), 60)
    assert list(system.labels()) == LABELS


@pytest.mark.parametrize("service", ["controller", "mongo"])
async def test_predictions_flow_while_the_control_plane_is_killed_and_comes_back(
    system: System, service: str
) -> None:
    before = system.container(service)
    with Load(system.aggregator) as load:
        await eventually(load.more())
        system.kill(service)
        await eventually(restarted(system, before), 60)
        await eventually(system.is_controlling, 60)
        await eventually(load.more())
    assert load.failures == []
    life(system, f"after-{service}")


async def test_mongo_is_restarted_under_load(system: System) -> None:
    with Load(system.aggregator) as load:
        system.control("CreateDeployment", deployment_id="kept", model="iris-virginica")
        system.control("LoadDeployment", name="deployments/kept")
        (made,) = system.made()
        await eventually(lambda: len(system.addresses()) == 4)
        system.compose("restart", "mongo")
        await eventually(system.is_controlling, 60)
        await eventually(load.more())
        kept = system.control("GetDeployment", name="deployments/kept")
        assert kept["state"] == "STATE_LOADED"
        assert [each["Id"] for each in system.made()] == [made["Id"]]
        system.control("TerminateDeployment", name="deployments/kept")
    assert load.failures == []
    assert system.made() == []


async def test_a_controller_that_dies_half_way_through_a_create_finishes_it_afterwards(
    system: System,
) -> None:
    wanted: dict[str, Any] = {"deployment_id": "half", "model": "iris-setosa", "replica_count": 3}
    system.control("CreateDeployment", **wanted, no_wait=True)
    system.kill("controller")
    await eventually(system.is_controlling, 60)

    def is_created() -> bool:
        found = system.control("GetDeployment", name="deployments/half")
        return bool(found["state"] == "STATE_CREATED")

    await eventually(is_created, 60)
    assert len(system.made()) == 3
    system.control("TerminateDeployment", name="deployments/half")
    assert system.made() == []


async def test_a_predictor_that_needs_more_memory_than_it_may_is_reported_as_such(
    system: System,
) -> None:
    artifact = large(96)
    async with client_channel(system.controller, Access(system.token)) as channel:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        await catalog.RegisterModel(model_upload(artifact, 2**20, name="large"), timeout=100)
    limits = {"memory_bytes": 64 * 2**20}
    with Load(system.aggregator) as load:
        system.control("CreateDeployment", deployment_id="oom", model="large", limits=limits)
        system.control("LoadDeployment", name="deployments/oom", no_wait=True)

        def reason() -> str:
            found = system.control("GetDeployment", name="deployments/oom")
            return str(found["instances"][0].get("reason", ""))

        await eventually(lambda: bool(reason()), 60)
        assert "it used more memory than it may" in reason()
        await eventually(load.more())
    assert load.failures == []
    system.control("TerminateDeployment", name="deployments/oom")
    assert system.made() == []


async def test_predictors_outlive_a_restart_and_an_upgrade_of_their_controller(
    system: System,
) -> None:
    system.control("CreateDeployment", deployment_id="outlives", model="iris-setosa")
    system.control("LoadDeployment", name="deployments/outlives")
    await eventually(lambda: len(system.addresses()) == 4)
    before = [each["Id"] for each in system.made()]
    controller = system.container("controller")["Id"]
    with Load(system.aggregator) as load:
        system.compose("restart", "controller")
        # What `up` does when there is a new image.
        system.up("--force-recreate", "--no-deps", "controller")
        await eventually(load.more())
    assert load.failures == []
    assert system.container("controller")["Id"] != controller
    found = system.control("GetDeployment", name="deployments/outlives")
    assert (found["state"], found["instances"][0]["attempt"]) == ("STATE_LOADED", "1")
    assert [each["Id"] for each in system.made()] == before
    system.control("TerminateDeployment", name="deployments/outlives")
    assert system.made() == []


def restarted(system: System, before: Mapping[str, Any]) -> Callable[[], bool]:
    """A condition: the engine has started the container again that `before` describes."""

    def holds() -> bool:
        after = system.api.inspect_container(before["Id"])
        again = after["RestartCount"] == before["RestartCount"] + 1
        return again and bool(after["State"]["Running"])

    return holds


def has_predictors(system: System, count: int) -> bool:
    """Whether the aggregator has so many predictors that are ready."""
    return len(system.addresses()) == count


def life(system: System, id: str) -> None:
    """A deployment's whole life; it raises if any part fails."""
    system.control("CreateDeployment", deployment_id=id, model="iris-setosa")
    loaded = system.control("LoadDeployment", name=f"deployments/{id}")
    assert loaded["state"] == "STATE_LOADED"
    system.control("TerminateDeployment", name=f"deployments/{id}")
    assert system.made() == []
