"""Classes and the addresses of their predictors, whatever signs a class has."""

from __future__ import annotations

import pytest

from aggregator.config import endpoint


@pytest.mark.parametrize(
    ("text", "label", "address"),
    [
        ("setosa=localhost:50061", "setosa", "localhost:50061"),
        ("<=50K=host:1", "<=50K", "host:1"),
        (">50K==[::1]:1", ">50K=", "[::1]:1"),
        ("a:b=host:1", "a:b", "host:1"),
        ("a=unix:/run/x=y", "a", "unix:/run/x=y"),
        ("<=50K=unix:/run/x", "<=50K", "unix:/run/x"),
        ("a, b=host:1", "a, b", "host:1"),
    ],
)
def test_class_may_hold_any_sign(text: str, label: str, address: str) -> None:
    parsed = endpoint(text)
    assert (parsed.class_label, parsed.address) == (label, address)


@pytest.mark.parametrize("text", ["setosa", "=host:1", "setosa=", "setosa=host", "=unix:/x", ""])
def test_what_lacks_a_class_or_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        endpoint(text)
