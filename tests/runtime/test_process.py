"""The process runtime: what the contract does not say of every runtime."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from controller.runtime import process_template
from controller.runtime.port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    ContainerState,
    RuntimeUnreachable,
)
from controller.runtime.process import ProcessRuntime, ProcessSettings
from controller.runtime.process_child import PredictorProcess
from tests.freezing import freeze
from tests.runtime.engine import ROOT
from tests.runtime.serving import (
    is_running,
    open_files,
    pids_with,
    status_of_process,
    until_waiting_for_a_model,
)
from tests.waiting import eventually
from trillium.server.children import start_process

A1 = ContainerSpec("a1", instance=0, attempt=1)


async def made(runtime: ProcessRuntime, spec: ContainerSpec = A1) -> Container:
    await runtime.create(spec)
    return next(each for each in await runtime.look() if each.instance == spec.instance)


async def pid_of(container: Container) -> int:
    # A process that has just begun has no command yet.
    await eventually(lambda: len(pids_with(f"--listen={container.address}")) == 1)
    (pid,) = pids_with(f"--listen={container.address}")
    return pid


def children() -> list[int]:
    """Children of this process, those included that have ended and were not reaped."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # A thread may end.
            found += map(int, path.read_text().split())
    return found


def zombies() -> list[int]:
    """Children of this process that have ended and were not reaped."""
    found = []
    for pid in children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if status_of_process(pid)["State"].startswith("Z"):
                found.append(pid)
    return found


def templates() -> list[int]:
    """Templates that this process has started and that run."""
    return sorted(set(pids_with("predictor.template")) & set(children()))


def memory_of(pid: int) -> dict[str, int]:
    """Sizes in KiB by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}


async def test_children_end_when_their_parent_is_killed(short_path: Path) -> None:
    parent = await start_process(
        sys.executable,
        *("-m", "tests.runtime.parent", str(short_path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    addresses = (await asyncio.wait_for(parent.stdout.readline(), 60)).decode().split()
    assert len(addresses) == 2
    for address in addresses:
        await until_waiting_for_a_model(address)
    (template,) = [
        pid
        for pid in pids_with("predictor.template")
        if int(status_of_process(pid)["PPid"]) == parent.pid
    ]
    parent.kill()
    await parent.communicate()
    await eventually(lambda: pids_with(f"--listen=unix:{short_path}") == [])
    await eventually(lambda: not is_running(template))
    # The next controller deletes what that one left.
    assert len(os.listdir(short_path)) == 1
    runtime = ProcessRuntime(ProcessSettings(folder=short_path))
    await runtime.open()
    assert await runtime.look() == []
    assert len(os.listdir(short_path)) == 1
    await runtime.close()
    assert os.listdir(short_path) == []


async def test_a_child_whose_parent_died_before_it_began_does_not_serve(short_path: Path) -> None:
    child = PredictorProcess("0" * 64, A1, short_path)
    await child.start(
        sys.executable, "-m", "predictor", f"--listen={child.address}", "--parent-pid=1"
    )
    await child.ended()
    assert child.seen("here").exit_code == 1
    assert "the parent process 1 is gone" in child.last_lines(5, 4096)
    child.delete()


async def test_predictors_are_forked_from_one_template_as_children_of_this_process(
    processes: ProcessRuntime,
) -> None:
    made_here = [await made(processes, replace(A1, instance=instance)) for instance in range(3)]
    assert len(templates()) == 1
    for container in made_here:
        await until_waiting_for_a_model(container.address)
        pid = await pid_of(container)
        assert int(status_of_process(pid)["PPid"]) == os.getpid()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")  # noqa: ASYNC240
        assert words[1:3] == [b"-m", b"predictor"]
        assert words[3:] == [
            f"--listen={container.address}".encode(),
            f"--parent-pid={os.getpid()}".encode(),
        ]
        sizes = memory_of(pid)
        assert sizes["Shared_Dirty"] > sizes["Private_Dirty"]
        files = open_files(pid)
        assert files.count(os.devnull) == 1
        # Who held the template's socket would hide its end from us.
        (template,) = templates()
        assert os.readlink(f"/proc/{template}/fd/0") not in files


async def test_predictors_outlive_their_template_and_others_can_follow(
    processes: ProcessRuntime,
) -> None:
    first = await made(processes)
    await until_waiting_for_a_model(first.address)
    (template,) = templates()
    os.kill(template, signal.SIGKILL)
    await eventually(lambda: templates() == [])
    second = await made(processes, replace(A1, instance=1))
    third = await made(processes, replace(A1, instance=2))
    for container in (first, second, third):
        await until_waiting_for_a_model(container.address)
    assert len(templates()) == 1
    assert zombies() == []


@pytest.mark.parametrize("when", ["at its start", "later"])
async def test_a_template_that_is_stopped_holds_up_no_predictor(
    processes: ProcessRuntime, when: str
) -> None:
    first = asyncio.ensure_future(made(processes))
    if when == "later":
        # What was forked begins when the template has also told it to.
        await until_waiting_for_a_model((await first).address)
    await eventually(lambda: len(templates()) == 1)
    (template,) = templates()
    freeze(template)
    second = asyncio.ensure_future(made(processes, replace(A1, instance=1)))
    for container in await asyncio.gather(first, second):
        await until_waiting_for_a_model(container.address)
    assert not is_running(template)
    third = await made(processes, replace(A1, instance=2))
    await until_waiting_for_a_model(third.address)
    assert len(templates()) == 1
    assert zombies() == []


async def test_what_has_started_a_thread_is_not_forked(short_path: Path, tmp_path: Path) -> None:
    # Python imports this module by itself when it starts.
    words = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "sitecustomize.py").write_text(words)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    runtime = ProcessRuntime(ProcessSettings(folder=short_path, environment=environment))
    await runtime.open()
    container = await made(runtime)
    await until_waiting_for_a_model(container.address)
    assert templates() == []
    await runtime.close()


async def test_the_template_ends_with_its_runtime(short_path: Path) -> None:
    runtime = ProcessRuntime(ProcessSettings(folder=short_path))
    await runtime.open()
    await made(runtime)
    assert len(templates()) == 1
    await runtime.close()
    assert templates() == []
    assert zombies() == []


async def test_a_start_that_its_runtime_overtakes_leaves_no_template(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()
    close, fork = process_template.Template.close, process_template.Template.fork

    async def close_and_tell(self: process_template.Template) -> None:
        await close(self)
        closed.set()

    async def fork_late(
        self: process_template.Template, arguments: Sequence[str], output: int
    ) -> process_template.Forked | None:
        begun.set()
        await closed.wait()
        return await fork(self, arguments, output)

    monkeypatch.setattr(process_template.Template, "close", close_and_tell)
    monkeypatch.setattr(process_template.Template, "fork", fork_late)
    runtime = ProcessRuntime(ProcessSettings(folder=short_path))
    await runtime.open()
    start = asyncio.create_task(runtime.create(A1))
    await begun.wait()
    await runtime.close()
    with pytest.raises(RuntimeUnreachable, match="closed"):
        await start
    assert templates() == []
    assert zombies() == []


async def test_a_closed_template_forks_nothing() -> None:
    template = process_template.Template(None)
    await template.close()
    with pytest.raises(OSError, match="closed"):
        await template.fork([], 1)
    assert templates() == []


async def test_who_may_not_become_a_parent_starts_each_predictor_by_itself(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(wanted: bool) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as patched:
        patched.setattr(process_template, "_set_subreaper", refused)
        runtime = ProcessRuntime(ProcessSettings(folder=short_path))
    await runtime.open()
    container = await made(runtime)
    await until_waiting_for_a_model(container.address)
    assert templates() == []
    await runtime.close()


async def test_a_predictor_that_became_nobodys_child_is_replaced_by_one_of_ours(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_template, "_set_subreaper", lambda wanted: None)
    runtime = ProcessRuntime(ProcessSettings(folder=short_path))
    await runtime.open()
    container = await made(runtime)
    await until_waiting_for_a_model(container.address)
    assert int(status_of_process(await pid_of(container))["PPid"]) == os.getpid()
    assert templates() == []
    await runtime.close()


async def test_a_folder_in_use_is_not_swept(processes: ProcessRuntime, short_path: Path) -> None:
    container = await made(processes)
    other = ProcessRuntime(ProcessSettings(folder=short_path))
    await other.open()
    await other.close()
    await until_waiting_for_a_model(container.address)


async def test_a_child_has_a_session_of_its_own(processes: ProcessRuntime) -> None:
    pid = await pid_of(await made(processes))
    assert os.getsid(pid) == os.getpgid(pid) == pid


async def test_only_this_user_may_enter_the_folder(processes: ProcessRuntime) -> None:
    container = await made(processes)
    folder = os.path.dirname(container.address.removeprefix("unix:"))
    assert os.stat(folder).st_mode & 0o777 == 0o700


async def test_a_child_that_does_not_react_is_killed_after_its_grace(
    processes: ProcessRuntime,
) -> None:
    container = await made(processes)
    await until_waiting_for_a_model(container.address)
    pid = await pid_of(container)
    freeze(pid)
    async with asyncio.timeout(60):
        await processes.remove(container.id, grace_s=0.2)
    assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240


async def test_a_child_ends_in_order_within_its_grace(processes: ProcessRuntime) -> None:
    container = await made(processes)
    await until_waiting_for_a_model(container.address)
    os.kill(await pid_of(container), signal.SIGTERM)

    async def has_exited() -> bool:
        return (await processes.look())[0].state is ContainerState.EXITED

    await eventually(has_exited)
    assert (await processes.look())[0].exit_code == 0
    assert '"draining"' in await processes.logs(container.id)


async def test_fifty_starts_and_stops_leave_no_zombie_no_file_and_no_thread(
    processes: ProcessRuntime,
) -> None:
    async def start_and_stop(attempt: int) -> None:
        container = await made(processes, replace(A1, attempt=attempt))
        await processes.remove(container.id, grace_s=0)

    def open_count() -> int:
        return len(os.listdir("/proc/self/fd"))

    for attempt in (1, 2):
        await start_and_stop(attempt)
    before = open_count()
    for attempt in range(3, 53):
        await start_and_stop(attempt)
    await eventually(lambda: zombies() == [])
    assert await processes.look() == []
    await eventually(lambda: open_count() <= before)
    # The event loop's own watcher keeps a thread for each process until it ends.
    await eventually(lambda: len(os.listdir("/proc/self/task")) < 50)


async def test_only_the_last_part_of_the_output_is_kept(short_path: Path) -> None:
    child = PredictorProcess("0" * 64, A1, short_path)
    words = "for n in range(100_000): print('line', n)"
    await child.start(sys.executable, "-c", words)
    await child.ended()
    limit = 64 * 1024
    child.trim_output(limit)
    (kept,) = list(short_path.iterdir())  # noqa: ASYNC240
    assert limit / 4 < kept.stat().st_size <= limit / 2
    assert child.last_lines(2, limit) == "line 99998\nline 99999"
    assert kept.read_text().startswith("line ")
    child.trim_output(limit)
    assert child.last_lines(1, limit) == "line 99999"
    child.delete()
    child.trim_output(limit)
    assert child.last_lines(1, limit) == ""


async def test_output_grows_on_after_it_was_cut(short_path: Path) -> None:
    child = PredictorProcess("0" * 64, A1, short_path)
    # Whole lines, so that a cut falls between two.
    endless = "import os\nfor n in range(10**9): os.write(1, b'line %d\\n' % n)"
    await child.start(sys.executable, "-c", endless)
    for _ in range(5):
        await eventually(lambda: len(child.last_lines(10_000, 64 * 1024)) > 32 * 1024)
        await asyncio.to_thread(child.trim_output, 16 * 1024)
    child.kill()
    await child.ended()
    lines = child.last_lines(50, 64 * 1024).splitlines()
    numbers = [int(line.removeprefix("line ")) for line in lines]
    assert numbers == sorted(numbers)
    child.delete()


async def test_a_share_of_the_processors_is_refused(processes: ProcessRuntime) -> None:
    with pytest.raises(ContainerRefused, match=r"0\.5 cpus.*engine"):
        await processes.create(replace(A1, cpus=0.5))
    assert await processes.look() == []


async def test_a_python_that_cannot_be_started_is_refused_and_leaves_nothing(
    processes: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ContainerRefused, match="/no/such/python"):
        await processes.create(A1)
    assert await processes.look() == []


async def test_a_folder_whose_path_is_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    runtime = ProcessRuntime(ProcessSettings(folder=tmp_path / ("x" * 100)))
    with pytest.raises(RuntimeUnreachable, match="too long"):
        await runtime.open()
    await runtime.close()


async def test_settings_reach_the_predictor(short_path: Path) -> None:
    settings = ProcessSettings(folder=short_path, arguments=("--log-level=loud",))
    runtime = ProcessRuntime(settings)
    await runtime.open()
    container = await made(runtime)

    async def has_exited() -> bool:
        return (await runtime.look())[0].state is ContainerState.EXITED

    await eventually(has_exited)
    assert (await runtime.look())[0].exit_code == 2
    assert "--log-level" in await runtime.logs(container.id)
    await runtime.close()
