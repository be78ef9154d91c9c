"""What is kept is its owner's alone, whatever the umask and whatever was there before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.store.sqlite import SqliteStore
from tests.kit.modes import every, wide
from trillium.cli.state import emptied, held
from trillium.server.private import close_to_others, make_file, make_folder
from trillium.server.process import StartFailed


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """Let every mode be as it is asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_made_is_the_owners_alone(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_file(tmp_path / "a" / "b" / "c")
    assert wide(tmp_path / "a" / "b") == []


def test_what_was_open_to_others_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "file"
    path.write_text("kept")
    path.chmod(0o664)
    make_folder(tmp_path)
    make_file(path)
    assert wide(tmp_path) == []
    assert path.read_text() == "kept"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    target.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(target)
    close_to_others(link)
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_state_folder_of_an_earlier_version_is_closed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("lock", "controller.db", "controller.db-wal", "controller.db.lock", "logs/a.log"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    with held(tmp_path):
        emptied(tmp_path / "logs" / "b.log")
        assert wide(tmp_path) == []


def test_a_project_with_a_lock_and_logs_of_its_own_keeps_their_modes(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(0o755)
    for name in ("logs/web.log", "src"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    with held(tmp_path):
        emptied(tmp_path / "logs" / "gateway-1.log")
        assert wide(tmp_path) == sorted(
            [tmp_path, tmp_path / "logs", tmp_path / "logs" / "web.log", tmp_path / "src"]
        )


def test_a_link_to_a_state_folder_leads_to_a_closed_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "made")
    with held(tmp_path / "link"):
        assert wide(tmp_path / "made") == []
        assert (tmp_path / "made" / "lock").exists()


@pytest.mark.parametrize("name", ["controller.db", "lock", "logs", "logs/gateway-1.log"])
def test_a_link_in_a_state_folder_is_refused_and_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "state" / "logs").mkdir(parents=True)
    (tmp_path / "state" / "controller.db").touch()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    link = tmp_path / "state" / name
    if link.is_dir():
        link.rmdir()
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    with pytest.raises(StartFailed, match=r"--state"), held(tmp_path / "state"):
        pass
    assert victim.read_text() == "kept"


def test_a_log_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "a.log").symlink_to(victim)
    with pytest.raises(StartFailed, match="cannot write to"):
        emptied(tmp_path / "a.log")
    assert victim.read_text() == "kept"


def test_what_another_user_owns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "controller.db").touch()
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StartFailed, match="belongs to another user"), held(tmp_path):
        pass


def test_a_folder_of_other_things_keeps_its_mode_and_theirs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o644)
    with held(tmp_path):
        assert wide(tmp_path) == [tmp_path, other]


async def test_a_store_and_what_sqlite_makes_beside_it_are_the_owners_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    content = b"x" * 100_000
    for _ in range(2):
        store = SqliteStore(path)
        await store.open()
        await store.put_blob(hashlib.sha256(content).hexdigest(), content)
        assert wide(tmp_path) == []
        assert path.with_name("state.db-wal") in every(tmp_path)
        await store.close()
        os.chmod(path, 0o644)
