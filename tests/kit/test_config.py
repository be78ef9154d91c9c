"""Settings of any server: parsed, overridden, and refused all at once."""

from __future__ import annotations

import pytest

from trillium.server.config import (
    ConfigError,
    Setting,
    address,
    nonempty,
    one_of,
    read,
    seconds,
    variable_of,
    whole_number,
)

SETTINGS = (
    Setting("size", whole_number(1, 10), 5, "how large"),
    Setting("name", nonempty, (), "who", repeatable=True),
)


def test_repeatable_setting_is_a_tuple_from_flags_and_from_a_list() -> None:
    assert read("toy", SETTINGS, ["--name", "a", "--name=b"], {}) == {"size": 5, "name": ("a", "b")}
    variables = {"TRILLIUM_TOY_NAME": "a, b", "TRILLIUM_TOY_SIZE": "7"}
    assert read("toy", SETTINGS, [], variables) == {"size": 7, "name": ("a", "b")}
    assert read("toy", SETTINGS, ["--name=c"], variables)["name"] == ("c",)
    assert read("toy", SETTINGS, [], {})["name"] == ()


def test_list_of_a_variable_may_be_json() -> None:
    variables = {"TRILLIUM_TOY_NAME": '["a,b", "c"]'}
    assert read("toy", SETTINGS, [], variables)["name"] == ("a,b", "c")
    for text in ("[::1]", "[1]", '["a"'):
        assert read("toy", SETTINGS, [], {"TRILLIUM_TOY_NAME": text})["name"] == (text,)


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:5", "dns:///localhost:5", "ipv4:127.0.0.1:5", "grpc://h:1", "ipv6:[::1]:5"],
)
def test_address_with_a_scheme_is_explained(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"an address has no scheme such as .*: expected '.*' alone"
    ):
        address(text)


def test_last_of_several_flags_counts_and_each_must_be_right() -> None:
    assert read("toy", SETTINGS, ["--size=2", "--size=3"], {})["size"] == 3
    with pytest.raises(ConfigError) as caught:
        read("toy", SETTINGS, ["--size=x", "--size=3", "--name="], {})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["--size=x", "--name="]


def test_variable_is_named_after_program_and_setting() -> None:
    assert variable_of("predictor", SETTINGS[0]) == "TRILLIUM_PREDICTOR_SIZE"


@pytest.mark.parametrize("text", ["0", "11", "", "x", "1.0", "1e1", "99999999999999999999"])
def test_whole_number_out_of_range_or_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number from 1 to 10"):
        whole_number(1, 10)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "61", "", "1s"])
def test_duration_out_of_range_or_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of seconds from 0 to 60"):
        seconds(0, 60)(text)


def test_words_are_taken_in_any_case() -> None:
    assert one_of("debug", "info")("INFO") == "info"
    with pytest.raises(ValueError, match="expected one of debug, info"):
        one_of("debug", "info")("loud")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("::1:50051", "brackets"),
        ("localhost", "host:port"),
        ("localhost:", "host:port"),
        ("localhost:65536", "host:port"),
        ("localhost:\u0665\u0660", "host:port"),
        ("localhost:1_0", "host:port"),
        ("localhost:" + "9" * 5000, "host:port"),
        ("unix:", "path"),
    ],
    ids=lambda text: text[:20],
)
def test_address_that_is_none_is_refused_with_what_is_wanted(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        address(text)
