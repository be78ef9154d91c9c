"""Names, ids and page tokens: nothing that is checked can mean anything else anywhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller import names
from trillium.errors import InvalidRequest


@pytest.mark.parametrize("id", ["a", "a1", "a-1", "iris-setosa", "a" * 40, "a--b"])
def test_an_id_may_be_short_long_and_hyphenated(id: str) -> None:
    assert names.id_in(f"deployments/{id}", names.DEPLOYMENTS, "name", 40) == id


@pytest.mark.parametrize(
    "id",
    [
        "",
        "-",
        "-a",
        "a-",
        "1a",
        "A",
        "a.b",
        "a_b",
        "a/b",
        "../a",
        "a b",
        "a\n",
        "a\0",
        "é",
        "a" * 41,
    ],
)
def test_what_is_no_id_is_refused_with_its_field(id: str) -> None:
    with pytest.raises(InvalidRequest):
        names.checked_id(id, "deployment_id", 40)
    for name in (f"deployments/{id}", f"deployments/{id}/"):
        with pytest.raises(InvalidRequest) as caught:
            names.id_in(name, names.DEPLOYMENTS, "deployment_id", 40)
        (violation,) = caught.value.violations
        assert violation.field == "deployment_id"
        assert "at most 40" in violation.description


@given(st.text(max_size=60))
@example("a1\n")
@example("deployments/a1/..")
def test_only_what_is_safe_everywhere_passes(text: str) -> None:
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", text, re.ASCII):
        assert names.checked_id(text, "id", 40) == text
        return
    with pytest.raises(InvalidRequest):
        names.checked_id(text, "id", 40)


@given(st.text(max_size=80))
def test_only_what_is_safe_passes_as_a_token(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text, re.ASCII):
        assert names.checked_token(text, "request_id", 64) == text
        return
    with pytest.raises(InvalidRequest) as caught:
        names.checked_token(text, "request_id", 64)
    assert [each.field for each in caught.value.violations] == ["request_id"]


@pytest.mark.parametrize("name", ["a1", "/a1", "deployments", "deployment/a1", "runs/a1", ""])
def test_a_name_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="expected deployments/ID"):
        names.id_in(name, names.DEPLOYMENTS, "name", 40)


def test_an_id_that_is_made_up_is_the_same_for_the_same_request_only() -> None:
    assert names.made_up_id("d", "r1") == names.made_up_id("d", "r1")
    assert len({names.made_up_id("d", request) for request in ("r1", "r2", "", "")}) == 4
    for request in ("", "r1"):
        id = names.made_up_id("r", request)
        assert names.checked_id(id, "id", names.LONGEST_RUN_ID) == id


@given(st.text(max_size=100).filter(lambda text: "\0" not in text))
def test_a_page_token_leads_to_the_item_it_was_made_of(after: str) -> None:
    assert names.after_of(names.page_token(after)) == after


@given(st.text(max_size=100))
@example("=")
@example("////")
@example("_w==")
def test_a_page_token_of_somebody_else_is_refused_or_harmless(token: str) -> None:
    try:
        after = names.after_of(token)
    except InvalidRequest as error:
        fields = [each.field for each in error.violations]
    else:
        after.encode()
        return
    assert fields == ["page_token"]


@pytest.mark.parametrize(("asked", "wanted"), [(0, 100), (1, 1), (500, 500)])
def test_a_page_has_a_size(asked: int, wanted: int) -> None:
    assert names.page_size(asked, 100, 500) == wanted


def test_a_page_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is 501; at most 500 allowed"):
        names.page_size(501, 100, 500)
