"""Artifacts are whole at every moment, whatever happens to the process that writes them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trillium.training.publishing import publish

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = b"old", b"new" * 100_000

# Dies when the second artifact is about to be written (fsync) or put in place (replace).
KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
from trillium.training.publishing import publish

output, moment = Path(sys.argv[1]), sys.argv[2]
original, calls = getattr(os, moment), []

def die_at_second_call(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(os, moment, die_at_second_call)
publish({path: b"new" * 100_000 for path in sorted(output.iterdir())}, output)
"""


@pytest.mark.parametrize(("moment", "renewed_count"), [("fsync", 0), ("replace", 1)])
def test_a_killed_run_leaves_every_artifact_whole(
    moment: str, renewed_count: int, tmp_path: Path
) -> None:
    names = ["a.onnx", "b.onnx", "c.onnx"]
    for name in names:
        (tmp_path / name).write_bytes(OLD)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_PUBLISHING, tmp_path, moment], cwd=ROOT, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    found = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("*.onnx"))}
    assert list(found) == names
    assert list(found.values()) == [NEW] * renewed_count + [OLD] * (3 - renewed_count)


def test_publishing_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.onnx"
    publish({path: OLD}, path.parent)
    publish({path: NEW}, path.parent)
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def test_artifacts_can_be_read_by_whoever_may_read_new_files(tmp_path: Path) -> None:
    ordinary, published = tmp_path / "ordinary", tmp_path / "a.onnx"
    ordinary.touch()
    publish({published: NEW}, tmp_path)
    assert published.stat().st_mode == ordinary.stat().st_mode
