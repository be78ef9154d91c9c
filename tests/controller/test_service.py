"""ControllerService over real gRPC, with predictors that are real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc import aio

from controller.runtime.process import ProcessRuntime, ProcessSettings
from controller.store.port import Kind, Record, StoreUnavailable
from controller.store.sqlite import SqliteStore
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.artifacts import renamed_opset, two_column_tensor
from tests.controller.run_fakes import MovableClock
from tests.controller.serving import CALL_S, MODEL, Serving, serving, serving_flowers, watching
from tests.freezing import freeze
from tests.rpc.errors import failed, failure_of
from tests.runtime.serving import pids_with
from tests.waiting import eventually
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import discovery_service_pb2, run_service_pb2
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREATING, CREATED = deployment_pb.STATE_CREATING, deployment_pb.STATE_CREATED
LOADING = deployment_pb.STATE_LOADING
LOADED, TERMINATED = deployment_pb.STATE_LOADED, deployment_pb.STATE_TERMINATED
FAILED = deployment_pb.STATE_FAILED
SERVING = deployment_pb.INSTANCE_PHASE_SERVING
UNKNOWN: Any = 99
MIB = 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Serving]:
    """One controller for all tests, each of which uses deployments of its own."""
    async with serving_flowers(tmp_path_factory.mktemp("controller")) as up:
        yield up


def pid_at(address: str) -> int:
    (pid,) = pids_with(f"--listen={address}")
    return pid


async def test_a_deployment_is_created_loaded_unloaded_and_terminated(up: Serving) -> None:
    id = up.new_id()
    created = await up.create(id, limits={"memory_bytes": 1024 * MIB})
    assert (created.name, created.state) == (f"deployments/{id}", CREATED)
    assert (created.model, created.model_version, created.replica_count) == (MODEL, 1, 1)
    assert created.limits.memory_bytes == 1024 * MIB
    assert not created.limits.HasField("cpus")
    (container,) = await up.containers_of(id)
    (instance,) = created.instances
    assert (instance.container_id, instance.address) == (container.id, container.address)
    assert (instance.attempt, instance.model_digest) == (1, "")
    loaded = await up.load(id)
    assert (loaded.state, loaded.target) == (LOADED, deployment_pb.TARGET_LOADED)
    assert loaded.instances[0].model_digest == loaded.model_digest != ""
    assert (await up.get(id)).state == LOADED
    unloaded = await up.unload(id)
    assert (unloaded.state, unloaded.instances[0].model_digest) == (CREATED, "")
    terminated = await up.terminate(id)
    assert terminated.state == TERMINATED
    assert terminated.create_time == created.create_time
    revisions = [each.revision for each in (created, loaded, unloaded, terminated)]
    assert revisions == sorted(set(revisions))
    assert await up.containers_of(id) == []
    assert (await up.get(id)).state == TERMINATED


async def test_the_history_tells_every_transition_in_order(up: Serving) -> None:
    id = up.new_id()
    await up.load(id, model=MODEL)
    await up.terminate(id)
    events = await up.events(id)
    assert [each.number for each in events] == list(range(1, len(events) + 1))
    times = [each.time.ToNanoseconds() for each in events]
    assert times == sorted(times)
    asked = [each for each in events if not each.HasField("slot")]
    assert [(each.before, each.after, each.cause) for each in asked] == [
        ("", "LOADED", "load was requested"),
        ("LOADED", "ABSENT", "terminate was requested"),
    ]
    steps = [each for each in events if each.HasField("slot")]
    assert [each.before for each in steps] == ["absent", *(each.after for each in steps[:-1])]
    phases = list(dict.fromkeys(each.after for each in steps))
    assert phases[:4] == ["creating", "idle", "loading", "serving"]
    assert phases[4:] == ["draining", "removing", "absent"]
    assert {each.attempt for each in steps} == {1}
    assert all(each.cause for each in events)


async def test_a_request_that_comes_a_hundred_times_at_once_has_one_effect_and_one_answer(
    up: Serving,
) -> None:
    before = set(await up.all_ids())
    request = pb.CreateDeploymentRequest(model=MODEL, request_id="hundred")
    answers = await asyncio.gather(
        *(up.stub.CreateDeployment(request, timeout=60) for _ in range(100))
    )
    assert all(each == answers[0] for each in answers)
    (id,) = set(await up.all_ids()) - before
    assert answers[0].name == f"deployments/{id}"
    (container,) = await up.containers_of(id)
    assert container.attempt == 1
    loads = await asyncio.gather(*(up.load(id, request_id="hundred-2") for _ in range(100)))
    assert all(each == loads[0] for each in loads)
    ends = await asyncio.gather(*(up.terminate(id, request_id="hundred-3") for _ in range(100)))
    assert {each.state for each in ends} == {TERMINATED}
    causes = [each.cause for each in await up.events(id) if not each.HasField("slot")]
    assert causes == ["create was requested", "load was requested", "terminate was requested"]


async def test_a_request_id_is_of_one_request_only(up: Serving) -> None:
    id = up.new_id()
    await up.create(id, request_id="once", no_wait=True)
    others: list[Callable[[], Any]] = [
        lambda: up.create(id, request_id="once", replica_count=2, no_wait=True),
        lambda: up.create(up.new_id(), request_id="once", no_wait=True),
        lambda: up.load(id, request_id="once"),
        lambda: up.unload(id, request_id="once"),
        lambda: up.terminate(id, request_id="once"),
    ]
    for other in others:
        failure = await failed(other())
        assert (failure.code, failure.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert (await up.get(id)).target == deployment_pb.TARGET_CREATED
    await up.terminate(id)


async def test_a_repeated_request_that_comes_late_undoes_nothing(up: Serving) -> None:
    id = up.new_id()
    await up.load(id, model=MODEL, request_id=f"{id}-load")
    await up.load(id, request_id=f"{id}-again")
    await up.unload(id)
    assert (await up.load(id, model=MODEL, request_id=f"{id}-load")).state == CREATED
    assert (await up.load(id, request_id=f"{id}-again")).state == CREATED
    await up.terminate(id)
    assert (await up.load(id, request_id=f"{id}-again")).state == TERMINATED


async def test_a_deadline_that_passes_undoes_nothing(up: Serving) -> None:
    id = up.new_id()
    created = await up.create(id)
    pid = pid_at(created.instances[0].address)
    freeze(pid)
    for _ in range(20):
        failure = await failed(up.load(id, within_s=0.3))
        assert failure.code == "DEADLINE_EXCEEDED"
        if (await up.get(id)).state == LOADING:
            break
        # On a busy machine the time may pass before the command is written down.
    os.kill(pid, signal.SIGCONT)
    await up.becomes(id, LOADED)
    await up.terminate(id)


async def test_a_caller_who_does_not_wait_is_answered_at_once(up: Serving) -> None:
    id = up.new_id()
    created = await up.create(id, no_wait=True)
    assert (created.state, created.target) == (CREATING, deployment_pb.TARGET_CREATED)
    loading = await up.load(id, no_wait=True)
    assert (loading.state, loading.target) == (
        deployment_pb.STATE_LOADING,
        deployment_pb.TARGET_LOADED,
    )
    await up.becomes(id, LOADED)
    unloading = await up.unload(id, no_wait=True)
    assert unloading.state == deployment_pb.STATE_UNLOADING
    terminating = await up.terminate(id, no_wait=True)
    assert terminating.state == deployment_pb.STATE_TERMINATING
    await up.becomes(id, TERMINATED)


async def test_what_was_never_created_is_created_by_a_load_that_names_a_model(up: Serving) -> None:
    id = up.new_id()
    failure = await failed(up.load(id))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "DEPLOYMENT_NOT_FOUND")
    assert "name a model" in failure.message
    loaded = await up.load(id, model=MODEL)
    assert (loaded.state, loaded.instances[0].phase) == (LOADED, SERVING)
    await up.terminate(id)


async def test_a_terminated_deployment_lives_again_with_another_spec(up: Serving) -> None:
    id = up.new_id()
    first = await up.create(id)
    await up.terminate(id)
    again = await up.load(id)
    assert (again.state, again.instances[0].attempt) == (LOADED, 2)
    assert again.instances[0].container_id != first.instances[0].container_id
    await up.terminate(id)
    third = await up.create(id, replica_count=2)
    assert (third.state, [each.attempt for each in third.instances]) == (CREATED, [3, 1])
    assert len(await up.containers_of(id)) == 2
    await up.terminate(id)
    fewer = await up.create(id)
    assert [each.phase for each in fewer.instances] == [
        deployment_pb.INSTANCE_PHASE_IDLE,
        deployment_pb.INSTANCE_PHASE_ABSENT,
    ]
    await up.terminate(id)


async def test_a_step_that_is_not_legal_says_which_are(up: Serving) -> None:
    id = up.new_id()
    for verb in (up.unload, up.terminate, up.get):
        failure = await failed(verb(id))
        assert (failure.code, failure.reason) == ("NOT_FOUND", "DEPLOYMENT_NOT_FOUND")
    await up.load(id, model=MODEL)
    failure = await failed(up.create(id))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ILLEGAL_STEP")
    assert failure.message.endswith("which is loaded; legal: load, update, unload, terminate")
    assert (await up.load(id)).state == LOADED
    await up.unload(id)
    assert (await up.unload(id)).state == CREATED
    assert (await up.create(id)).state == CREATED
    failure = await failed(up.create(id, replica_count=3))
    assert (failure.code, failure.reason) == ("ALREADY_EXISTS", "DEPLOYMENT_EXISTS")
    await up.terminate(id)
    assert (await up.terminate(id)).state == TERMINATED
    failure = await failed(up.unload(id))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ILLEGAL_STEP")
    assert failure.message.endswith("which is terminated; legal: create, load, terminate")


async def test_a_caller_who_waits_is_told_that_another_wanted_something_else(up: Serving) -> None:
    id = up.new_id()
    created = await up.create(id)
    pid = pid_at(created.instances[0].address)
    freeze(pid)
    waiting = asyncio.ensure_future(up.load(id))

    async def is_there() -> bool:
        return bool((await up.get(id)).state == LOADING)

    await eventually(is_there)
    terminating = asyncio.ensure_future(up.terminate(id))
    failure = await failed(waiting)
    assert (failure.code, failure.reason) == ("ABORTED", "SUPERSEDED")
    os.kill(pid, signal.SIGCONT)
    assert (await terminating).state == TERMINATED
    assert await up.containers_of(id) == []


async def test_callers_who_want_the_same_do_not_supersede_one_another(up: Serving) -> None:
    id = up.new_id()
    loaded = await up.load(id, model=MODEL)
    os.kill(pid_at(loaded.instances[0].address), signal.SIGKILL)

    async def has_trouble() -> bool:
        return bool((await up.get(id)).detail)

    await eventually(has_trouble)
    answers = await asyncio.gather(*(up.load(id) for _ in range(5)))
    assert {each.state for each in answers} == {LOADED}
    await up.terminate(id)


async def test_a_predictor_that_dies_is_replaced_by_another_attempt(up: Serving) -> None:
    id = up.new_id()
    before = await up.load(id, model=MODEL)
    (dying,) = before.instances
    async with watching(up, name=f"deployments/{id}") as watch:
        await watch.snapshot()
        os.kill(pid_at(dying.address), signal.SIGKILL)
        changes = await watch.until(f"deployments/{id}", LOADED)
    backoff = next(
        each.instances[0]
        for each in changes
        if each.instances[0].phase == deployment_pb.INSTANCE_PHASE_BACKOFF
    )
    assert backoff.reason == "its container ended: exit code 137"
    assert '"serving"' in backoff.log_tail
    assert backoff.failure_count == 1
    assert backoff.retry_time.ToNanoseconds() > backoff.phase_time.ToNanoseconds()
    (instance,) = changes[-1].instances
    assert (instance.attempt, instance.phase, instance.reason) == (2, SERVING, "")
    assert instance.address != dying.address
    (container,) = await up.containers_of(id)
    assert container.id == instance.container_id
    await up.terminate(id)


async def test_a_model_call_that_was_overtaken_has_no_effect_on_what_serves(up: Serving) -> None:
    id = up.new_id()
    await up.load(id, model=MODEL)
    await up.unload(id)
    loaded = await up.load(id)
    async with aio.insecure_channel(loaded.instances[0].address) as channel:
        predictor: Any = ModelServiceStub(channel)
        before = await predictor.GetModel(model_pb.GetModelRequest(), timeout=60)
        assert before.fence == 3
        # As a controller sends it that was stopped before it could, or had read before that.
        for fence in (1, 2):
            late = predictor.UnloadModel(model_pb.UnloadModelRequest(fence=fence), timeout=60)
            assert (await failed(late)).reason == "OVERTAKEN"
        assert await predictor.GetModel(model_pb.GetModelRequest(), timeout=60) == before
    now = await up.get(id)
    assert (now.state, now.revision) == (LOADED, loaded.revision)
    await up.terminate(id)


async def test_orders_that_a_predictor_has_from_elsewhere_are_overtaken(up: Serving) -> None:
    """From a store that has lost writes, or a person."""
    id = up.new_id()
    loaded = await up.load(id, model=MODEL)
    async with aio.insecure_channel(loaded.instances[0].address) as channel:
        predictor: Any = ModelServiceStub(channel)
        await predictor.UnloadModel(model_pb.UnloadModelRequest(fence=40), timeout=60)
        await up.becomes(id, LOADED)

        async def has_a_model() -> bool:
            told = await predictor.GetModel(model_pb.GetModelRequest(), timeout=60)
            return bool(told.fence > 40 and told.model.digest == loaded.model_digest)

        await eventually(has_a_model)
    await up.terminate(id)


async def test_a_hung_predictor_that_is_being_loaded_can_be_terminated(up: Serving) -> None:
    id = up.new_id()
    created = await up.create(id)
    pid = pid_at(created.instances[0].address)
    freeze(pid)
    loading = await up.load(id, no_wait=True)
    assert loading.state == deployment_pb.STATE_LOADING

    async def is_loading() -> bool:
        (instance,) = (await up.get(id)).instances
        return bool(instance.phase == deployment_pb.INSTANCE_PHASE_LOADING)

    await eventually(is_loading)
    await up.terminate(id, no_wait=True)

    async def is_being_removed() -> bool:
        (instance,) = (await up.get(id)).instances
        return bool(instance.phase == deployment_pb.INSTANCE_PHASE_REMOVING)

    await eventually(is_being_removed)
    os.kill(pid, signal.SIGCONT)
    await up.becomes(id, TERMINATED)
    assert await up.containers_of(id) == []


async def test_limits_that_the_runtime_cannot_keep_fail_for_good_and_say_why(up: Serving) -> None:
    id = up.new_id()
    failure = await failed(up.create(id, limits={"cpus": 1.0}))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "DEPLOYMENT_FAILED")
    assert "a process cannot be held to 1 cpus" in failure.message
    deployment = await up.get(id)
    assert deployment.state == FAILED
    assert deployment.detail in failure.message
    assert deployment.instances[0].phase == deployment_pb.INSTANCE_PHASE_FAILED
    assert await up.containers_of(id) == []
    failure = await failed(up.load(id))
    assert failure.reason == "DEPLOYMENT_FAILED"
    assert (await up.terminate(id)).state == TERMINATED


class Stirred(ProcessRuntime):
    """Predictors that end at once, with words."""

    def __init__(self) -> None:
        super().__init__(ProcessSettings(arguments=("--no-such-flag",)))

    def stir(self) -> None:
        self._wakes.wake()

    @property
    def is_bare(self) -> bool:
        return not self._children


async def test_a_predictor_that_never_starts_is_tried_again_also_across_a_restart(
    tmp_path: Path,
) -> None:
    clock = MovableClock()

    async def until_failures(up: Serving, runtime: Stirred, wanted: int) -> Any:
        """Skip the pauses until so many attempts have failed."""
        seen = 0

        async def is_so() -> bool:
            nonlocal seen
            (instance,) = (await up.get("a1")).instances
            backs_off = instance.phase == deployment_pb.INSTANCE_PHASE_BACKOFF
            if instance.failure_count > seen and (backs_off or instance.failure_count == wanted):
                seen = instance.failure_count
                pause_ns = instance.retry_time.ToNanoseconds() - instance.phase_time.ToNanoseconds()
                if backs_off:
                    assert pause_ns == 1e9 * 2 ** (seen - 1)
                if seen < wanted:
                    clock.move(pause_ns / 1e9)
                    runtime.stir()
            return seen >= wanted

        await eventually(is_so)
        return await up.get("a1")

    runtime = Stirred()
    async with serving_flowers(tmp_path, runtime=runtime, clock=clock) as up:
        await up.create("a1", no_wait=True)
        before = await until_failures(up, runtime, 3)
        assert before.state == CREATING
    runtime = Stirred()
    async with serving_flowers(tmp_path, runtime=runtime, clock=clock) as up:
        (instance,) = (await up.get("a1")).instances
        assert instance == before.instances[0]
        deployment = await until_failures(up, runtime, 6)
        assert deployment.state == CREATING
        (instance,) = deployment.instances
        assert instance.phase == deployment_pb.INSTANCE_PHASE_BACKOFF
        assert deployment.detail == instance.reason == "its container ended: exit code 2"
        assert "--no-such-flag" in instance.log_tail
        await eventually(lambda: runtime.is_bare)
        # Asking again tries again.
        waiting = asyncio.ensure_future(failed(up.load("a1")))

        async def is_tried_again() -> bool:
            return bool((await up.get("a1")).instances[0].failure_count < 6)

        await eventually(is_tried_again)
        await until_failures(up, runtime, 6)
        waited = await waiting
        assert (waited.code, waited.reason) == ("FAILED_PRECONDITION", "DEPLOYMENT_FAILED")
        assert "its container ended: exit code 2" in waited.message
        assert (await up.terminate("a1")).state == TERMINATED


async def test_a_watch_tells_a_snapshot_and_then_each_change(up: Serving) -> None:
    first, second = up.new_id(), up.new_id()
    await up.create(first)
    async with watching(up) as watch:
        told = await watch.snapshot()
        assert set(told) == {f"deployments/{id}" for id in await up.all_ids()}
        assert told[f"deployments/{first}"] == await up.get(first)
        await up.create(second)
        changes = await watch.until(f"deployments/{second}", CREATED)
        revisions = [each.revision for each in changes]
        assert revisions == sorted(set(revisions))
        assert changes[0].state == CREATING
        await up.terminate(first)
        await watch.until(f"deployments/{first}", TERMINATED)
    await up.terminate(second)


async def test_a_watch_resumes_where_it_was_lost(up: Serving) -> None:
    same, changed, new = up.new_id(), up.new_id(), up.new_id()
    await asyncio.gather(up.create(same), up.create(changed))
    async with watching(up) as watch:
        told = await watch.snapshot()
    known = {name: each.revision for name, each in told.items()}
    await up.load(changed)
    await up.create(new)
    gone = "deployments/forgotten-long-ago"
    async with watching(up, known_revisions={**known, gone: 7}) as watch:
        events = [await watch.next() for _ in range(4)]
    differing = {f"deployments/{changed}", f"deployments/{new}"}
    assert {each.deployment.name for each in events[:2]} == differing
    assert events[2].forgotten == gone
    assert events[3].HasField("snapshot_end")
    await asyncio.gather(*(up.terminate(id) for id in (same, changed, new)))


async def test_a_watch_of_one_deployment_tells_nothing_of_others(up: Serving) -> None:
    mine, other = up.new_id(), up.new_id()
    await asyncio.gather(up.create(mine), up.create(other))
    known = {f"deployments/{id}": (await up.get(id)).revision for id in (mine, other)}
    async with watching(up, name=f"deployments/{mine}", known_revisions=known) as watch:
        assert await watch.snapshot() == {}
        await up.load(other)
        await up.load(mine)
        first = await watch.next()
        assert first.deployment.name == f"deployments/{mine}"
    await asyncio.gather(up.terminate(mine), up.terminate(other))


async def test_lists_come_in_pages_and_by_state_and_model(up: Serving) -> None:
    await up.register("tulips", renamed_opset(13), "tulip")
    ids = [up.new_id() for _ in range(5)]
    await asyncio.gather(*(up.create(id) for id in ids[:3]))
    await asyncio.gather(up.create(ids[3], "tulips"), up.load(ids[4], model="tulips"))

    async def listed(size: int, **fields: Any) -> list[list[str]]:
        pages, token = [], ""
        while True:
            request = pb.ListDeploymentsRequest(page_size=size, page_token=token, **fields)
            page = await up.stub.ListDeployments(request, timeout=60)
            pages.append([each.name.removeprefix("deployments/") for each in page.deployments])
            token = page.next_page_token
            if not token:
                return pages

    everything = await up.all_ids()
    assert everything == sorted(everything)
    for size in (1, 2, len(everything), 500):
        pages = await listed(size)
        assert [id for page in pages for id in page] == everything
        assert all(len(page) == size for page in pages[:-1])
    assert await listed(0, model="tulips") == [ids[3:]]
    assert await listed(1, model="tulips", states=[LOADED]) == [[ids[4]]]
    assert set(ids[:3]) <= set((await listed(0, states=[CREATED], model=MODEL))[0])
    both = await listed(2, states=[CREATED, LOADED], model="tulips")
    assert [id for page in both for id in page] == ids[3:]
    assert await listed(0, model="nobody's") == [[]]
    await asyncio.gather(*(up.terminate(id) for id in ids))


async def test_servers_are_told_with_what_is_free(up: Serving) -> None:
    id = up.new_id()
    await up.create(id, replica_count=2, limits={"memory_bytes": 512 * MIB})
    answer = await up.stub.ListServers(pb.ListServersRequest(), timeout=60)
    (server,) = answer.servers
    assert (server.runtime, server.reachable) == ("process", True)
    assert server.container_count >= 2
    assert server.cpus == server.cpus_free == os.cpu_count()
    assert server.memory_bytes - server.memory_bytes_free >= 1024 * MIB
    await up.terminate(id)


async def test_a_loaded_deployment_is_given_another_version_in_place(up: Serving) -> None:
    id, model = up.new_id(), "roses"
    assert await up.register(model, two_column_tensor()) == 1
    before = await up.load(id, model=model)
    assert await up.register(model, renamed_opset(13)) == 2
    assert (await up.load(id)).model_version == 1
    after = await up.load(id, newest_version=True)
    assert (after.model_version, after.state) == (2, LOADED)
    assert after.instances[0].model_digest == after.model_digest != before.model_digest
    assert after.instances[0].container_id == before.instances[0].container_id
    back = await up.load(id, model_version=1)
    assert (back.model_version, back.model_digest) == (1, before.model_digest)
    failure = await failed(up.load(id, model_version=3))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    failure = await failed(up.load(id, model=MODEL))
    assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["model"])
    assert (await up.get(id)).model_version == 1
    await up.terminate(id)


async def test_number_of_predictors_is_changed_in_place(up: Serving) -> None:
    id = up.new_id()
    first = (await up.load(id, model=MODEL)).instances[0].container_id
    more = await up.update(id, replica_count=3, request_id="more")
    assert (more.state, more.replica_count) == (LOADED, 3)
    assert [bool(each.address) for each in more.instances] == [True] * 3
    one = await up.update(id, replica_count=1, update_mask={"paths": ["replica_count"]})
    assert (one.state, one.replica_count) == (LOADED, 1)
    assert [bool(each.container_id) for each in one.instances] == [True, False, False]
    assert one.instances[0].container_id == first
    assert (await up.update(id, replica_count=3, request_id="more")).replica_count == 1
    await up.unload(id)
    two = await up.update(id, replica_count=2)
    assert (two.state, two.replica_count) == (CREATED, 2)
    assert (await up.load(id)).state == LOADED
    await up.terminate(id)
    failure = await failed(up.update(id, replica_count=2))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ILLEGAL_STEP")
    failure = await failed(up.update("nobody", replica_count=2))
    assert (failure.code, failure.reason) == ("NOT_FOUND", "DEPLOYMENT_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, ["replica_count"]),
        ({"replica_count": 65}, ["replica_count"]),
        ({"replica_count": 2, "update_mask": {"paths": ["limits"]}}, ["update_mask.paths[0]"]),
        ({"replica_count": 2, "request_id": "a b"}, ["request_id"]),
        ({"name": "x", "request_id": "a b"}, ["name", "request_id", "replica_count"]),
    ],
)
async def test_wrong_updates_are_told(
    up: Serving, fields: dict[str, Any], wrong: list[str]
) -> None:
    request = pb.UpdateDeploymentRequest(**{"name": "deployments/a1", **fields})
    failure = await failed(up.stub.UpdateDeployment(request, timeout=60))
    assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", wrong)


BAD_CREATIONS = (
    ({"model": ""}, ["model"]),
    ({"deployment_id": "../etc"}, ["deployment_id"]),
    ({"deployment_id": "a/b"}, ["deployment_id"]),
    ({"deployment_id": "-a"}, ["deployment_id"]),
    ({"deployment_id": "a-"}, ["deployment_id"]),
    ({"deployment_id": "A"}, ["deployment_id"]),
    ({"deployment_id": "1a"}, ["deployment_id"]),
    ({"deployment_id": "a\n"}, ["deployment_id"]),
    ({"deployment_id": "\u0661"}, ["deployment_id"]),
    ({"deployment_id": "a" * 41}, ["deployment_id"]),
    ({"model": "nobody's"}, ["model"]),
    ({"model": "../" + MODEL}, ["model"]),
    ({"model": "a\0b"}, ["model"]),
    ({"model": "x" * 10_000}, ["model"]),
    ({"replica_count": 65}, ["replica_count"]),
    ({"replica_count": 2**32 - 1}, ["replica_count"]),
    ({"limits": {"cpus": 0.0}}, ["limits.cpus"]),
    ({"limits": {"cpus": -1.0}}, ["limits.cpus"]),
    ({"limits": {"cpus": float("nan")}}, ["limits.cpus"]),
    ({"limits": {"cpus": float("inf")}}, ["limits.cpus"]),
    ({"limits": {"memory_bytes": 0}}, ["limits.memory_bytes"]),
    ({"limits": {"memory_bytes": -1}}, ["limits.memory_bytes"]),
    ({"limits": {"memory_bytes": 64 * MIB - 1}}, ["limits.memory_bytes"]),
    ({"request_id": "a b"}, ["request_id"]),
    ({"request_id": "x" * 65}, ["request_id"]),
    (
        {
            "deployment_id": "..",
            "model": "",
            "replica_count": 100,
            "limits": {"cpus": 0.0, "memory_bytes": 0},
            "request_id": "/",
        },
        [
            *("deployment_id", "limits.cpus", "limits.memory_bytes"),
            *("model", "replica_count", "request_id"),
        ],
    ),
)


@pytest.mark.parametrize(("fields", "wrong"), BAD_CREATIONS)
async def test_a_creation_that_is_wrong_names_every_field_and_leaves_nothing(
    up: Serving, fields: dict[str, Any], wrong: list[str]
) -> None:
    ids, containers = await up.all_ids(), await up.runtime.look()
    request = pb.CreateDeploymentRequest(**{"model": MODEL, **fields})
    failure = await failed(up.stub.CreateDeployment(request, timeout=60))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert sorted(failure.fields) == wrong
    assert all("allowed" in text or "expected" in text for text in failure.fields.values())
    assert await up.all_ids() == ids
    assert await up.runtime.look() == containers


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "nobodys"},
        {"model": "..", "model_version": 1},
        {"model": "x" * 128},
        {"model": MODEL, "model_version": 99},
        {"model": MODEL, "model_version": 2**32 - 1},
    ],
)
async def test_a_model_that_there_is_not_is_not_found_and_leaves_nothing(
    up: Serving, fields: dict[str, Any]
) -> None:
    ids = await up.all_ids()
    created = pb.CreateDeploymentRequest(deployment_id="unborn", **fields)
    loaded = pb.LoadDeploymentRequest(name="deployments/unborn", **fields)
    for call in (
        up.stub.CreateDeployment(created, timeout=60),
        up.stub.LoadDeployment(loaded, timeout=60),
    ):
        failure = await failed(call)
        assert (failure.code, failure.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND"), failure
        assert len(failure.message) < 1000
    assert await up.all_ids() == ids


BAD_NAMES = ("", "a1", "deployments/", "deployments/../a", "deployments/A", "runs/a1", "x" * 5000)


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_is_none_is_refused_by_every_method(up: Serving, name: str) -> None:
    calls = [
        up.stub.LoadDeployment(pb.LoadDeploymentRequest(name=name, model=MODEL), timeout=60),
        up.stub.UnloadDeployment(pb.UnloadDeploymentRequest(name=name), timeout=60),
        up.stub.TerminateDeployment(pb.TerminateDeploymentRequest(name=name), timeout=60),
        up.stub.GetDeployment(pb.GetDeploymentRequest(name=name), timeout=60),
        up.stub.ListDeploymentEvents(pb.ListDeploymentEventsRequest(name=name), timeout=60),
    ]
    if name:
        watch = up.stub.WatchDeployments(pb.WatchDeploymentsRequest(name=name), timeout=60)
        calls.append(watch.read())
    for call in calls:
        failure = await failed(call)
        assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["name"])


@pytest.mark.parametrize(
    "token",
    [
        "?",
        "ä",
        "a",
        "AA==",
        "/w==",
        "x" * 4001,
        "MTA=x",
        "LTE=",
        "4peL",
        "OTk5OTk5OTk5OTk5OTk5OTk5OTk5",
    ],
)
async def test_a_page_token_that_is_none_is_no_defect_of_the_server(
    up: Serving, token: str
) -> None:
    id = up.new_id()
    await up.create(id, no_wait=True)
    calls = [
        up.stub.ListDeployments(pb.ListDeploymentsRequest(page_token=token), timeout=60),
        up.stub.ListDeploymentEvents(
            pb.ListDeploymentEventsRequest(name=f"deployments/{id}", page_token=token), timeout=60
        ),
    ]
    for call in calls:
        try:
            await call
        except aio.AioRpcError as error:
            failure = failure_of(error)
            assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", ["page_token"])
    await up.terminate(id)


async def test_further_fields_that_are_wrong_are_named(up: Serving) -> None:
    id = up.new_id()
    await up.create(id, no_wait=True)
    name = f"deployments/{id}"
    calls = {
        "page_size": [
            up.stub.ListDeployments(pb.ListDeploymentsRequest(page_size=501), timeout=60),
            up.stub.ListDeploymentEvents(
                pb.ListDeploymentEventsRequest(name=name, page_size=501), timeout=60
            ),
        ],
        "states[1]": [
            up.stub.ListDeployments(
                pb.ListDeploymentsRequest(states=[CREATED, UNKNOWN]), timeout=60
            )
        ],
        "request_id": [
            up.load(id, request_id="a/b"),
            up.unload(id, request_id="x" * 65),
            up.terminate(id, request_id="\n"),
        ],
    }
    for field, each in calls.items():
        for call in each:
            failure = await failed(call)
            assert (failure.code, list(failure.fields)) == ("INVALID_ARGUMENT", [field])
    await up.terminate(id)


async def test_bytes_that_are_no_message_are_refused(up: Serving) -> None:
    method: Any = up.channel.unary_unary(
        "/trillium.controller.v1.ControllerService/CreateDeployment"
    )
    failure = await failed(method(b"\xff\xff\xff", timeout=60))
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


async def test_every_method_that_the_protos_promise_is_there(up: Serving) -> None:
    descriptors = [
        pb.DESCRIPTOR.services_by_name["ControllerService"],
        run_service_pb2.DESCRIPTOR.services_by_name["RunService"],
        discovery_service_pb2.DESCRIPTOR.services_by_name["DiscoveryService"],
    ]
    for service in descriptors:
        for method in service.methods:
            if not method.client_streaming and not method.server_streaming:
                call: Any = up.channel.unary_unary(f"/{service.full_name}/{method.name}")
                failure = await _code(call(b"", timeout=60))
                assert failure in ("OK", "INVALID_ARGUMENT"), method.name


async def _code(call: Any) -> str:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_a_deployed_predictor_tells_what_stands_beside_the_artifact(tmp_path: Path) -> None:
    """The same as a predictor that has read the file itself."""
    models = tmp_path / "models"
    models.mkdir()
    path = models / "blossom.onnx"
    path.write_bytes(two_column_tensor())
    facts = {
        "class_label": "setosa",
        "positive_column": 1,
        "ensemble": "flowers",
        "class_labels": ["rose", "setosa"],
        "feature_names": ["a", "b", "c", "d"],
        "sample": [5.1, 3.5, 1.4, 0.2],
    }
    path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    async with running_predictor(PredictorConfig(listen="127.0.0.1:0", model=path)) as alone:
        expected = await model_at(alone.address)
    assert (expected.ensemble, list(expected.feature_names)) == ("flowers", ["a", "b", "c", "d"])
    async with serving(tmp_path, models_dir=models) as up:
        loaded = await up.load("b1", model="blossom")
        assert await model_at(loaded.instances[0].address) == expected


async def model_at(address: str) -> model_pb.Model:
    """What the predictor there says of its model."""
    async with aio.insecure_channel(address) as channel:
        stub: Any = ModelServiceStub(channel)
        answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=60)
    model: model_pb.Model = answer.model
    return model


class LossyStore(SqliteStore):
    """A real store that does not answer readers while it is lost."""

    lost = False
    refused = 0

    async def get(self, kind: Kind, id: str) -> Record | None:
        if self.lost:
            self.refused += 1
            raise StoreUnavailable("lost")
        return await super().get(kind, id)


async def test_callers_who_wait_go_on_waiting_while_the_store_is_lost(tmp_path: Path) -> None:
    store = LossyStore(tmp_path / "store.db")
    async with serving_flowers(tmp_path, store=store) as up:
        created = await up.create("w1")
        pid = pid_at(created.instances[0].address)
        freeze(pid)
        order = run_service_pb2.CreateRunRequest(run_id="r1", model=MODEL, dataset="iris")
        waiting = [
            asyncio.ensure_future(up.load("w1")),
            asyncio.ensure_future(up.runs.CreateRun(order, timeout=CALL_S)),
        ]

        async def has_begun() -> bool:
            run = run_service_pb2.GetRunRequest(name="runs/r1")
            is_loading = bool((await up.get("w1")).state == LOADING)
            return is_loading and await _code(up.runs.GetRun(run, timeout=60)) == "OK"

        await eventually(has_begun)
        store.lost = True
        assert (await failed(up.get("w1"))).reason == "STORE_UNAVAILABLE"
        before = store.refused
        await eventually(lambda: store.refused >= before + 20)
        assert not any(call.done() for call in waiting)
        os.kill(pid, signal.SIGCONT)
        store.lost = False
        deployment, run = await asyncio.gather(*waiting)
    assert deployment.state == LOADED
    assert run.state == run_service_pb2.RUN_STATE_SUCCEEDED


async def test_a_stop_ends_watches_of_runs_at_once_and_says_so(tmp_path: Path) -> None:
    # Its predictor never starts, so the run does not end by itself.
    runtime = ProcessRuntime(ProcessSettings(arguments=("--no-such-flag",)))
    async with AsyncExitStack() as longer:
        async with serving_flowers(tmp_path, drain_s=600.0, runtime=runtime) as up:
            channel = aio.insecure_channel(up.controller.address)
            await longer.enter_async_context(channel)
            order = run_service_pb2.CreateRunRequest(
                run_id="r1", model=MODEL, dataset="iris", no_wait=True
            )
            await up.runs.CreateRun(order, timeout=CALL_S)
            stub: Any = RunServiceStub(channel)
            call = stub.WatchRun(run_service_pb2.WatchRunRequest(name="runs/r1"), timeout=CALL_S)
            assert (await call.read()).run.name == "runs/r1"
            ending = asyncio.ensure_future(failed(_last_of(call)))
            began = time.monotonic()
        assert time.monotonic() - began < 60
        failure = await ending
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "DRAINING")


async def _last_of(call: Any) -> None:
    """Read until the call ends."""
    while await call.read() is not aio.EOF:
        pass


async def test_a_stop_ends_watches_at_once_and_says_so(tmp_path: Path) -> None:
    async with AsyncExitStack() as longer:
        async with serving_flowers(tmp_path, drain_s=600.0) as up:
            # A channel that is still open when the server has stopped.
            channel = aio.insecure_channel(up.controller.address)
            await longer.enter_async_context(channel)
            stub: Any = ControllerServiceStub(channel)
            call = stub.WatchDeployments(pb.WatchDeploymentsRequest(), timeout=CALL_S)
            assert (await call.read()).HasField("snapshot_end")
            ending = asyncio.ensure_future(failed(call.read()))
            began = time.monotonic()
        assert time.monotonic() - began < 60
        failure = await ending
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "DRAINING")
