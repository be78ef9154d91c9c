"""Names that are never paths, and the artifacts in the models folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predictor.models_folder import ModelsFolder
from trillium.errors import ModelNotFound
from trillium.rpc.uploads import is_name

FOLDER = Path("/models")
HOSTILE = (
    "../secret",
    "..",
    ".",
    ".hidden",
    "",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "a\n",
    "a\x00",
    "a" * 129,
    "модель",
    "a b",
    "%2e%2e",
    "a:b",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_refused(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["iris-setosa", "a", "-", "_x", "A.b-c_9", "v1..2", "a" * 128])
def test_ordinary_name_is_taken(name: str) -> None:
    assert is_name(name)


@example("a/../../b")
@example("a\n")
@given(st.text(alphabet=st.sampled_from("aZ0._-/\\\x00\n\r ~%:٣é"), max_size=140) | st.text())
def test_name_that_is_taken_stays_inside_its_folder(name: str) -> None:
    if is_name(name):
        path = FOLDER / f"{name}.onnx"
        assert path.parent == FOLDER
        assert path.resolve().parent == FOLDER
        assert name.isascii()
        assert 1 <= len(name) <= 128


async def test_unknown_name_is_not_found_and_the_others_are_listed(tmp_path: Path) -> None:
    for name in ("iris-b", "iris-a"):
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    (tmp_path / "notes.txt").write_bytes(b"")
    folder = ModelsFolder(tmp_path, 1000)
    assert (await folder.read("iris-a"))[0] == b"iris-a"
    with pytest.raises(ModelNotFound, match=r"no model 'iris-c' .* available: iris-a, iris-b$"):
        await folder.read("iris-c")


async def test_empty_folder_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"available: none$"):
        await ModelsFolder(tmp_path, 1000).read("iris")
