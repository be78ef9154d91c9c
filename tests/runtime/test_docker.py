"""The docker runtime on a real engine: what the contract does not say of every runtime."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from controller.runtime.docker import DockerRuntime
from controller.runtime.docker_settings import Reach
from controller.runtime.port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    ContainerState,
    RuntimeUnreachable,
)
from tests.runtime.conftest import OpenDocker
from tests.runtime.engine import SERVING_IMAGE, new_owner, ours, settings_for
from tests.runtime.late_engine import late_engine
from tests.runtime.serving import (
    load_and_score,
    status_of_process,
    until_waiting_for_a_model,
)
from tests.waiting import eventually

pytestmark = pytest.mark.engine

A1 = ContainerSpec("a1", instance=0, attempt=1)
A2 = replace(A1, attempt=2)


@pytest.fixture
def owner() -> str:
    """An owner that several runtimes of a test share."""
    return new_owner()


async def only(runtime: DockerRuntime) -> Container:
    (container,) = await runtime.look()
    return container


async def test_every_container_has_the_security_profile(
    open_docker: OpenDocker, api: docker.APIClient
) -> None:
    runtime = await open_docker()
    await runtime.create(replace(A1, cpus=0.5, memory_bytes=256 * 1024 * 1024))
    facts = api.inspect_container((await only(runtime)).id)
    host = facts["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PidsLimit"] == 256
    assert host["Memory"] == host["MemorySwap"] == 256 * 1024 * 1024
    assert host["NanoCpus"] == 500_000_000
    assert host["Init"] is True
    assert host["AutoRemove"] is False
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert not host["Binds"]
    assert not host.get("Mounts")
    assert not host["Devices"]
    assert facts["Mounts"] == []
    assert {host[each] for each in ("PidMode", "UTSMode", "UsernsMode")} == {""}
    assert host["IpcMode"] == "private"
    assert host["NetworkMode"] != "host"
    assert host["LogConfig"]["Config"] == {"max-file": "2", "max-size": "1m"}
    assert facts["Config"]["User"] == "10001:10001"
    bindings = [each for ports in host["PortBindings"].values() for each in ports]
    assert [each["HostIp"] for each in bindings] == ["127.0.0.1"]


async def test_its_process_has_no_privileges(
    open_docker: OpenDocker, api: docker.APIClient
) -> None:
    runtime = await open_docker()
    await runtime.create(A1)
    container = await only(runtime)
    await until_waiting_for_a_model(container.address)
    listed = api.top(container.id, "-eo pid,uid,gid")["Processes"]
    assert {(uid, gid) for _, uid, gid in listed} == {("10001", "10001")}
    said = status_of_process(api.inspect_container(container.id)["State"]["Pid"])
    assert {int(said[f"Cap{each}"], 16) for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert said["NoNewPrivs"].strip() == "1"


async def test_its_name_and_labels_say_whose_attempt_it_is(
    open_docker: OpenDocker, api: docker.APIClient, owner: str
) -> None:
    runtime = await open_docker(owner=owner)
    await runtime.create(ContainerSpec("a-1", instance=2, attempt=3))
    (entry,) = ours(api, owner)
    assert entry["Names"] == [f"/trillium-{owner}-a-1-2-3"]
    said = {key: value for key, value in entry["Labels"].items() if key.startswith("trillium.")}
    assert said == {
        "trillium.owner": owner,
        "trillium.deployment": "a-1",
        "trillium.slot": "2",
        "trillium.attempt": "3",
        "trillium.cpus": "1",
        "trillium.memory_bytes": str(1024**3),
    }


async def test_a_runtime_that_is_closed_when_its_users_are_gone_removes_its_containers(
    open_docker: OpenDocker, api: docker.APIClient
) -> None:
    user = settings_for("").owner
    labels = {"trillium.test": user, "trillium.test.part": "aggregator"}
    made = api.create_container(SERVING_IMAGE, ["predictor"], labels=labels)["Id"]
    owner, keep_for = f"{user}s", tuple(f"{name}={value}" for name, value in labels.items())
    try:
        api.start(made)
        first = await open_docker(owner=owner, keep_for=keep_for)
        await first.create(A1)
        kept = await only(first)
        await first.close()
        second = await open_docker(owner=owner, keep_for=keep_for)
        assert await second.look() == [kept]
        await second.create(replace(A1, instance=1))
        # It is there yet, but does not run.
        api.kill(made)
        await eventually(lambda: not api.inspect_container(made)["State"]["Running"])
        await second.close()
        assert ours(api, owner) == []
    finally:
        api.remove_container(made, force=True)


async def test_a_runtime_without_users_can_be_closed_while_no_engine_answers(
    short_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = DockerRuntime(settings_for(f"unix://{short_path}/none", keep_for=("a=b",)))
    await runtime.open()
    async with asyncio.timeout(60):
        await runtime.close()
    assert "containers are left behind" in caplog.text


async def test_a_container_made_by_another_controller_of_the_owner_is_adopted(
    open_docker: OpenDocker, owner: str
) -> None:
    one, other = await open_docker(owner=owner), await open_docker(owner=owner)
    await one.create(A1)
    await other.create(A1)
    assert await one.look() == await other.look()
    assert (await only(other)).state is ContainerState.RUNNING


async def test_one_that_was_made_and_never_started_is_adopted_and_started(
    open_docker: OpenDocker, api: docker.APIClient, owner: str
) -> None:
    runtime = await open_docker(owner=owner)
    labels = {"owner": owner, "deployment": "a1", "slot": "0", "attempt": "1"}
    made = api.create_container(
        SERVING_IMAGE,
        ["predictor"],
        name=f"trillium-{owner}-a1-0-1",
        labels={f"trillium.{key}": value for key, value in labels.items()},
    )
    seen = await only(runtime)
    assert (seen.id, seen.state, seen.address) == (made["Id"], ContainerState.STARTING, "")
    await runtime.create(A1)
    started = await only(runtime)
    assert (started.id, started.state) == (made["Id"], ContainerState.RUNNING)


async def test_a_strangers_container_is_never_listed_or_removed_or_taken_for_ours(
    open_docker: OpenDocker, api: docker.APIClient, owner: str
) -> None:
    runtime = await open_docker(owner=owner)
    name = f"trillium-{owner}-a1-0-1"
    labels = {"trillium.owner": new_owner(), "trillium.deployment": "a1"}
    stranger = api.create_container(SERVING_IMAGE, ["predictor"], name=name, labels=labels)["Id"]
    try:
        assert await runtime.look() == []
        (server,) = await runtime.servers()
        assert server.container_count == 0
        await runtime.remove(stranger)
        with pytest.raises(ContainerRefused, match=name):
            await runtime.create(A1)
        assert api.inspect_container(stranger)["Id"] == stranger
    finally:
        api.remove_container(stranger, force=True)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (replace(A1, image="no-such-image:1"), "no-such-image:1"),
        (replace(A1, image="No Such Image"), "refuses"),
        (replace(A1, cpus=10_000.0), "CPUs"),
        (replace(A1, deployment="a/../1"), "refuses"),
    ],
)
async def test_what_the_engine_will_not_make_is_refused_and_leaves_nothing(
    open_docker: OpenDocker, spec: ContainerSpec, said: str
) -> None:
    runtime = await open_docker()
    with pytest.raises(ContainerRefused, match=said):
        await runtime.create(spec)
    assert await runtime.look() == []


async def test_one_that_cannot_be_started_is_refused_and_removed(open_docker: OpenDocker) -> None:
    runtime = await open_docker(network="no-such-network")
    with pytest.raises(ContainerRefused, match="no-such-network"):
        await runtime.create(A1)
    assert await runtime.look() == []


async def test_a_create_that_is_carried_out_late_leaves_one_that_never_started(
    open_docker: OpenDocker, engine: str, short_path: Path, owner: str
) -> None:
    async with late_engine(engine, short_path) as (late, address):
        slow = await open_docker(door=address, owner=owner, timeout_s=5)
        prompt = await open_docker(owner=owner)
        late.hold("POST /v[0-9.]+/containers/create")
        with pytest.raises(RuntimeUnreachable, match="did not answer"):
            await slow.create(A1)
        assert await prompt.look() == []
        await prompt.create(A2)
        late.release()

        async def is_there_too() -> bool:
            return len(await prompt.look()) == 2

        await eventually(is_there_too)
        first, second = sorted(await prompt.look(), key=lambda each: each.attempt)
        assert (first.state, second.state) == (ContainerState.STARTING, ContainerState.RUNNING)
        await prompt.remove(first.id)
        assert await prompt.look() == [second]


async def test_a_create_that_timed_out_is_taken_up_when_it_is_repeated(
    open_docker: OpenDocker, engine: str, short_path: Path
) -> None:
    async with late_engine(engine, short_path) as (late, address):
        runtime = await open_docker(door=address, timeout_s=5)
        late.hold("POST /v[0-9.]+/containers/create")
        with pytest.raises(RuntimeUnreachable):
            await runtime.create(A1)
        late.release()

        async def is_there() -> bool:
            return bool(await runtime.look())

        await eventually(is_there)
        made = await only(runtime)
        await runtime.create(A1)
        started = await only(runtime)
        assert (started.id, started.state) == (made.id, ContainerState.RUNNING)


@pytest.mark.parametrize("request_line", ["POST /v[0-9.]+/containers/[^/]+/stop", "DELETE "])
async def test_a_removal_that_is_carried_out_late_does_not_touch_the_next_attempt(
    open_docker: OpenDocker, engine: str, short_path: Path, request_line: str, owner: str
) -> None:
    async with late_engine(engine, short_path) as (late, address):
        slow = await open_docker(door=address, owner=owner, timeout_s=5)
        prompt = await open_docker(owner=owner)
        await prompt.create(A1)
        first = await only(prompt)
        late.hold(request_line)
        with pytest.raises(RuntimeUnreachable):
            await slow.remove(first.id, grace_s=0)
        assert late.held_count == 1
        await prompt.remove(first.id)
        # Even one of the same name is another container.
        await prompt.create(A1)
        again = await only(prompt)
        late.release()
        await eventually(lambda: late.answered_count == 1)
        assert await prompt.look() == [again]
        assert again.id != first.id


async def test_a_container_can_be_removed_while_it_is_being_made(
    open_docker: OpenDocker, owner: str
) -> None:
    maker, remover = await open_docker(owner=owner), await open_docker(owner=owner)

    async def is_listed() -> bool:
        return bool(await remover.look())

    for attempt in range(1, 16):
        making = asyncio.create_task(maker.create(replace(A1, attempt=attempt)))
        await eventually(is_listed)
        await remover.remove((await only(remover)).id, grace_s=0)
        await making
        assert await remover.look() == []


async def test_on_a_network_it_is_reached_by_a_name_of_its_own(
    open_docker: OpenDocker, api: docker.APIClient, owner: str
) -> None:
    network = f"trillium-{owner}"
    api.create_network(network, driver="bridge")
    probes: list[str] = []
    try:
        runtime = await open_docker(owner=owner, network=network, reach=Reach.NETWORK)
        await runtime.create(A1)
        container = await only(runtime)
        assert container.address == f"{container.id[:12]}:50061"
        command = ["trillium.healthcheck", container.address]
        service = "--service=trillium.predictor.v1.ModelService"
        host: Any = api.create_host_config(network_mode=network)

        def is_reached() -> bool:
            probe = api.create_container(SERVING_IMAGE, [*command, service], host_config=host)["Id"]
            probes.append(probe)
            api.start(probe)
            return bool(api.wait(probe, timeout=60)["StatusCode"] == 0)

        await eventually(is_reached, 60)
        assert not api.inspect_container(container.id)["HostConfig"]["PortBindings"]
        await runtime.remove(container.id)
    finally:
        for probe in probes:
            api.remove_container(probe, force=True)
        api.remove_network(network)


async def test_its_predictor_takes_a_model_and_predicts(open_docker: OpenDocker) -> None:
    runtime = await open_docker()
    await runtime.create(A1)
    address = (await only(runtime)).address
    assert address.startswith("127.0.0.1:")
    await until_waiting_for_a_model(address)
    assert len(await load_and_score(address)) == 150


async def test_where_no_engine_is_everything_says_so(
    open_docker: OpenDocker, short_path: Path
) -> None:
    runtime = DockerRuntime(settings_for(f"unix://{short_path}/none.sock"))
    await runtime.open()
    try:
        for call in (
            runtime.look(),
            runtime.create(A1),
            runtime.remove("0" * 64),
            runtime.logs("0" * 64),
        ):
            with pytest.raises(RuntimeUnreachable, match="no engine answers"):
                await call
        (server,) = await runtime.servers()
        assert not server.reachable
        assert "no engine answers" in server.detail
    finally:
        await runtime.close()


async def test_runtimes_leave_neither_files_nor_threads(engine: str) -> None:
    settings = settings_for(engine)

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    def its_threads() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name.startswith("docker")]

    async def open_use_close() -> None:
        runtime = DockerRuntime(settings)
        await runtime.open()
        await runtime.look()
        await runtime.close()

    await open_use_close()
    before = open_files()
    for _ in range(10):
        await open_use_close()
    # A thread that has returned takes a moment to be gone; a leak would have left ten of each.
    await eventually(lambda: its_threads() == [] and open_files() < before + 5)
