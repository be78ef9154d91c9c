"""What every runtime must do. `test_contract.py` runs it against each of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from controller.runtime.port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    ContainerState,
    Runtime,
    RuntimeUnreachable,
)
from tests.runtime.serving import MIB, fill_memory, load_and_score, until_waiting_for_a_model
from tests.waiting import eventually

A1 = ContainerSpec("a1", instance=0, attempt=1)


async def only(runtime: Runtime) -> Container:
    """The one container that there is."""
    (container,) = await runtime.look()
    return container


async def made(runtime: Runtime, spec: ContainerSpec = A1) -> Container:
    """A new container, as it is seen when its predictor waits for a model."""
    await runtime.create(spec)
    wanted = (spec.deployment, spec.instance, spec.attempt)
    (container,) = (
        each
        for each in await runtime.look()
        if (each.deployment, each.instance, each.attempt) == wanted
    )
    await until_waiting_for_a_model(container.address)
    return container


class RuntimeContract:
    """A subclass has a fixture `runtime`, an open runtime with no container, and `kill`."""

    async def kill(self, runtime: Runtime, container: Container) -> None:
        """End the container's process with SIGKILL, past the runtime."""
        raise NotImplementedError

    async def test_a_new_runtime_has_nothing(self, runtime: Runtime) -> None:
        assert await runtime.look() == []
        (server,) = await runtime.servers()
        assert server.reachable
        assert (server.container_count, server.runtime) == (0, runtime.name)
        assert server.cpus >= 1
        assert server.memory_bytes > 100 * MIB

    async def test_a_created_container_takes_a_model_and_predicts(self, runtime: Runtime) -> None:
        container = await made(runtime)
        assert len(container.id) == 64
        assert container.state is ContainerState.RUNNING
        assert container.exit_code is None
        assert not container.out_of_memory
        scores = await load_and_score(container.address)
        assert len(scores) == 150
        assert min(scores[:50]) > max(scores[50:])

    async def test_a_repeated_create_changes_nothing(self, runtime: Runtime) -> None:
        first = await made(runtime)
        await asyncio.gather(*(runtime.create(A1) for _ in range(5)))
        assert await only(runtime) == first

    async def test_creates_of_one_attempt_at_once_make_one_container(
        self, runtime: Runtime
    ) -> None:
        await asyncio.gather(*(runtime.create(A1) for _ in range(12)), return_exceptions=True)
        await runtime.create(A1)
        assert (await only(runtime)).state is ContainerState.RUNNING

    async def test_attempts_instances_and_deployments_are_told_apart(
        self, runtime: Runtime
    ) -> None:
        specs = (
            A1,
            replace(A1, attempt=2),
            replace(A1, instance=1),
            replace(A1, deployment="a1-0"),
        )
        await asyncio.gather(*(runtime.create(spec) for spec in specs))
        seen = await runtime.look()
        wanted = {(spec.deployment, spec.instance, spec.attempt) for spec in specs}
        assert {(each.deployment, each.instance, each.attempt) for each in seen} == wanted
        assert len({each.id for each in seen}) == len({each.address for each in seen}) == 4
        (server,) = await runtime.servers()
        assert server.container_count == 4
        assert {each.server for each in seen} == {server.name}

    async def test_a_removed_container_is_gone_and_its_id_never_comes_back(
        self, runtime: Runtime
    ) -> None:
        first = await made(runtime)
        await runtime.remove(first.id)
        assert await runtime.look() == []
        await runtime.create(A1)
        second = await only(runtime)
        assert second.id != first.id
        await runtime.remove(first.id)
        assert await only(runtime) == second

    async def test_removing_what_is_gone_or_going_succeeds(self, runtime: Runtime) -> None:
        container = await made(runtime)
        await asyncio.gather(*(runtime.remove(container.id) for _ in range(5)))
        await runtime.remove(container.id)
        await runtime.remove("0" * 64)

        async def nothing_is_left() -> bool:
            return await runtime.look() == []

        await eventually(nothing_is_left)

    async def test_a_killed_container_is_listed_with_its_exit_code_until_removed(
        self, runtime: Runtime
    ) -> None:
        container = await made(runtime)
        await self.kill(runtime, container)
        await self.until_exited(runtime)
        exited = await only(runtime)
        wanted = replace(container, state=ContainerState.EXITED, exit_code=137, address="")
        assert exited == wanted
        assert "serving" in await runtime.logs(exited.id)
        await runtime.create(A1)
        assert await only(runtime) == exited
        await runtime.remove(exited.id)
        assert await runtime.look() == []

    async def test_the_last_lines_of_the_output_can_be_read(self, runtime: Runtime) -> None:
        container = await made(runtime)
        assert '"serving"' in await runtime.logs(container.id)
        last = await runtime.logs(container.id, lines=1)
        assert len(last.splitlines()) == 1
        await runtime.remove(container.id)
        assert await runtime.logs(container.id) == ""

    async def test_changes_wake_at_once_and_after_each_change(self, runtime: Runtime) -> None:
        async with aclosing(runtime.changes()) as changes, asyncio.timeout(60):
            await anext(changes)
            container = await made(runtime)
            await anext(changes)
            await self.kill(runtime, container)
            async for _ in changes:
                if (await only(runtime)).state is ContainerState.EXITED:
                    break
            await runtime.remove(container.id)
            async for _ in changes:
                if not await runtime.look():
                    break

    @pytest.mark.parametrize(
        "limits", [{"cpus": 0.0}, {"cpus": -1.0}, {"memory_bytes": 0}, {"memory_bytes": -1}]
    )
    async def test_limits_that_nobody_can_give_are_refused(
        self, runtime: Runtime, limits: dict[str, float]
    ) -> None:
        with pytest.raises(ContainerRefused, match=next(iter(limits))):
            await runtime.create(replace(A1, **limits))  # type: ignore[arg-type]
        assert await runtime.look() == []

    async def test_what_uses_more_memory_than_it_may_is_ended_and_told_of(
        self, runtime: Runtime
    ) -> None:
        container = await made(runtime, replace(A1, memory_bytes=200 * MIB))
        (server,) = await runtime.servers()
        assert server.memory_bytes_reserved == 200 * MIB
        await fill_memory(container.address, 1000)
        await self.until_exited(runtime)
        exited = await only(runtime)
        assert exited.out_of_memory
        assert exited.exit_code == 137

    async def test_a_caller_who_gives_up_leaves_what_can_be_taken_up(
        self, runtime: Runtime
    ) -> None:
        creating = asyncio.create_task(runtime.create(A1))
        await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        await runtime.create(A1)
        container = await only(runtime)
        assert container.state is ContainerState.RUNNING
        removing = asyncio.create_task(runtime.remove(container.id))
        await asyncio.sleep(0)
        removing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removing
        await runtime.remove(container.id)

        async def nothing_is_left() -> bool:
            return await runtime.look() == []

        await eventually(nothing_is_left)

    async def test_a_closed_runtime_says_so(self, runtime: Runtime) -> None:
        async with aclosing(runtime.changes()) as changes:
            await anext(changes)
            await runtime.close()
            with pytest.raises(RuntimeUnreachable):
                async for _ in changes:
                    pass
        for call in (runtime.look(), runtime.create(A1), runtime.remove("0" * 64)):
            with pytest.raises(RuntimeUnreachable):
                await call
        (server,) = await runtime.servers()
        assert not server.reachable
        assert server.detail

    async def until_exited(self, runtime: Runtime) -> None:
        """Wait until the only container has exited."""

        async def has_exited() -> bool:
            return (await only(runtime)).state is ContainerState.EXITED

        await eventually(has_exited)
