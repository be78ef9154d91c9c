"""DeclaredFacts of a model from the artifact, the file next to it, and a person."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trillium.errors import ModelRejected
from trillium.model.declared import DeclaredFacts, column, from_metadata, next_to, to_metadata


def test_metadata_of_our_own_models_is_understood() -> None:
    facts, others = from_metadata(
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
    assert facts == DeclaredFacts(
        ensemble="iris",
        class_label="setosa",
        class_labels=("setosa", "virginica"),
        positive_column=0,
        output_name="probabilities",
        feature_names=("a", "b"),
        sample=(1.0, 2.5),
    )
    assert others == {"training_set": "iris, 1936", "author": "R. A. Fisher"}


@pytest.mark.parametrize("column", [0, 1])
def test_metadata_that_was_written_is_read_again(column: int) -> None:
    declared = DeclaredFacts(
        ensemble="iris",
        class_label="setosa",
        class_labels=("setosa", "virginica"),
        positive_column=column,
        sample=(1.0, 2.5),
    )
    metadata = to_metadata(declared, {"scores": "{}"})
    assert set(metadata) == {
        "trillium.format",
        "trillium.ensemble",
        "trillium.class_label",
        "trillium.class_labels",
        "trillium.positive_column",
        "trillium.sample",
        "trillium.scores",
    }
    assert from_metadata(metadata) == (declared, {"format": "1", "scores": "{}"})


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
        facts, _ = from_metadata(metadata)
        assert facts.positive_column in (None, 0, 1)
        facts.class_label.encode()


def test_facts_that_another_declares_override_and_the_others_stay() -> None:
    mine = DeclaredFacts(class_label="a", positive_column=1, sample=(1.0,))
    yours = DeclaredFacts(class_label="b", positive_column=0)
    assert mine.overridden_by(yours) == DeclaredFacts(
        class_label="b", positive_column=0, sample=(1.0,)
    )
    assert mine.overridden_by(DeclaredFacts()) == mine


def test_file_next_to_an_artifact_is_read(tmp_path: Path) -> None:
    said = {"class_label": "Größe", "positive_column": 0, "feature_names": ["a"], "sample": [1]}
    (tmp_path / "m.json").write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    facts = next_to(tmp_path / "m.onnx")
    assert facts == DeclaredFacts(
        class_label="Größe", positive_column=0, feature_names=("a",), sample=(1.0,)
    )


def test_no_file_declares_nothing(tmp_path: Path) -> None:
    assert next_to(tmp_path / "m.onnx") == DeclaredFacts()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", "is no JSON object"),
        (b'{"class": "setosa"}', "unknown key 'class'; allowed: .*class_label"),
        (b'{"class_label": 1}', "class_label: expected a non-empty string, got"),
        (b'{"class_label": ""}', "class_label: expected a non-empty string, got"),
        (b'{"class_label": "\\ud800"}', "class_label: expected a non-empty string"),
        (b'{"positive_column": 2}', "positive_column: expected 0 or 1"),
        (b'{"positive_column": true}', "positive_column: expected 0 or 1"),
        (b'{"positive_column": 1.0}', "positive_column: expected 0 or 1"),
        (b'{"feature_names": "abcd"}', "feature_names: expected a list of distinct"),
        (b'{"feature_names": ["a", "a"]}', "feature_names: expected a list of distinct, non-empty"),
        (b'{"sample": [Infinity]}', "sample: expected a list of finite numbers"),
        (b'{"sample": [true]}', "sample: expected a list of finite numbers"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_wrong_file_is_refused_with_its_name(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ModelRejected, match=complaint) as caught:
        next_to(tmp_path / "m.onnx")
    assert caught.value.message.startswith("m.json")


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").mkdir()
    with pytest.raises(ModelRejected, match="cannot be read as JSON"):
        next_to(tmp_path / "m.onnx")


@pytest.mark.parametrize("value", [0, 1, "0", "1"])
def test_column_is_taken_from_json_and_from_a_command_line(value: object) -> None:
    assert column(value) == int(str(value))


@pytest.mark.parametrize("value", [2, -1, "", "01", 0.5, None, True, [], "x"])
def test_anything_else_is_no_column(value: object) -> None:
    with pytest.raises(ValueError, match="expected 0 or 1"):
        column(value)
