"""Names that are never paths, and facts from an artifact, the file beside it, and a person."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predictor.artifact import Facts, beside, column, find, from_metadata
from trillium.errors import ModelNotFound, ModelRejected
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


def test_artifact_of_unknown_name_is_missed_and_the_others_are_told(tmp_path: Path) -> None:
    for name in ("iris-b", "iris-a"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    assert find(tmp_path, "iris-a") == tmp_path / "iris-a.onnx"
    with pytest.raises(ModelNotFound, match=r"no model 'iris-c' .* there: iris-a, iris-b$"):
        find(tmp_path, "iris-c")


def test_empty_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"there: none$"):
        find(tmp_path, "iris")


def test_metadata_of_our_own_models_is_understood() -> None:
    facts = from_metadata(
        {
            "trillium.ensemble": "iris",
            "trillium.class_label": "setosa",
            "trillium.class_labels": '["setosa", "virginica"]',
            "trillium.positive_column": "0",
            "trillium.output_name": "probabilities",
            "trillium.feature_names": '["a", "b"]',
            "trillium.sample": "[1, 2.5]",
            "trillium.training_set": "iris, 1936",
            "author": "R. A. Fisher",
        }
    )
    assert facts == Facts(
        ensemble="iris",
        class_label="setosa",
        class_labels=("setosa", "virginica"),
        positive_column=0,
        output_name="probabilities",
        feature_names=("a", "b"),
        sample=(1.0, 2.5),
        others={"training_set": "iris, 1936", "author": "R. A. Fisher"},
    )


WRONG_METADATA = {
    "class_label": "",
    "class_labels": '["setosa", "setosa"]',
    "feature_names": '["a", 1]',
    "positive_column": "2",
    "sample": "[1, NaN]",
    "ensemble": "",
    "output_name": "",
}


@pytest.mark.parametrize(("key", "text"), WRONG_METADATA.items())
def test_wrong_metadata_is_refused_by_its_key(key: str, text: str) -> None:
    with pytest.raises(ModelRejected, match=rf"metadata trillium\.{key} is wrong"):
        from_metadata({f"trillium.{key}": text})


@pytest.mark.parametrize("key", ["class_labels", "feature_names", "sample", "positive_column"])
@pytest.mark.parametrize(
    "text",
    ["", "not JSON", "{}", "null", "true", "[[1]]", "[" * 100_000, '["\\ud800"]', "[1e999]"],
    ids=lambda text: text[:10],
)
def test_json_of_metadata_that_is_nonsense_is_refused_by_its_key(key: str, text: str) -> None:
    with pytest.raises(ModelRejected, match=rf"metadata trillium\.{key} is wrong"):
        from_metadata({f"trillium.{key}": text})


@given(
    st.dictionaries(
        st.sampled_from(sorted(WRONG_METADATA)).map("trillium.{}".format) | st.text(),
        st.text() | st.from_type(dict[str, float]).map(json.dumps),
    )
)
def test_any_metadata_is_read_or_refused(metadata: dict[str, str]) -> None:
    with contextlib.suppress(ModelRejected):
        facts = from_metadata(metadata)
        assert facts.positive_column in (None, 0, 1)
        facts.class_label.encode()


def test_what_another_says_wins_and_what_it_does_not_say_stays() -> None:
    mine = Facts(class_label="a", positive_column=1, sample=(1.0,), others={"x": "1", "y": "1"})
    yours = Facts(class_label="b", positive_column=0, others={"y": "2"})
    both = mine.overridden_by(yours)
    assert both.class_label == "b"
    assert both.positive_column == 0
    assert both.sample == (1.0,)
    assert both.others == {"x": "1", "y": "2"}
    assert mine.overridden_by(Facts()) == mine


def test_file_beside_an_artifact_is_read(tmp_path: Path) -> None:
    said = {"class_label": "Größe", "positive_column": 0, "feature_names": ["a"], "sample": [1]}
    (tmp_path / "m.json").write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    facts = beside(tmp_path / "m.onnx")
    assert facts == Facts(
        class_label="Größe", positive_column=0, feature_names=("a",), sample=(1.0,)
    )


def test_no_file_beside_says_nothing(tmp_path: Path) -> None:
    assert beside(tmp_path / "m.onnx") == Facts()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", "must hold a JSON object"),
        (b'{"class": "setosa"}', "unknown key 'class'; allowed: .*class_label"),
        (b'{"class_label": 1}', "class_label: a text is wanted"),
        (b'{"class_label": ""}', "class_label: a text is wanted"),
        (b'{"class_label": "\\ud800"}', "class_label: "),
        (b'{"positive_column": 2}', "positive_column: 0 or 1"),
        (b'{"positive_column": true}', "positive_column: 0 or 1"),
        (b'{"positive_column": 1.0}', "positive_column: 0 or 1"),
        (b'{"feature_names": "abcd"}', "feature_names: a list of texts"),
        (b'{"feature_names": ["a", "a"]}', "feature_names: each text may stand there once"),
        (b'{"sample": [Infinity]}', "sample: a list of finite numbers"),
        (b'{"sample": [true]}', "sample: a list of finite numbers"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_wrong_file_beside_is_refused_with_its_path(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ModelRejected, match=complaint) as caught:
        beside(tmp_path / "m.onnx")
    assert str(path) in caught.value.message


def test_folder_in_place_of_the_file_beside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").mkdir()
    with pytest.raises(ModelRejected, match="cannot be read as JSON"):
        beside(tmp_path / "m.onnx")


@pytest.mark.parametrize("value", [0, 1, "0", "1"])
def test_column_is_taken_from_json_and_from_a_command_line(value: object) -> None:
    assert column(value) == int(str(value))


@pytest.mark.parametrize("value", [2, -1, "", "01", 0.5, None, True, [], "x"])
def test_anything_else_is_no_column(value: object) -> None:
    with pytest.raises(ValueError, match="0 or 1 is wanted"):
        column(value)
