"""The check of the rendered documentation finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.docs.build import faults


@pytest.mark.parametrize(
    ("element", "fault"),
    [
        ('<a href="other.html#here">', None),
        ('<a href="https://example.org/">', None),
        ('<a href="gone.html">', "index.html links to gone.html, which is not there"),
        (
            '<a href="other.html#there">',
            "index.html links to other.html#there, which has no such place",
        ),
        ('<a href="#top">', "index.html links to #top, which has no such place"),
        (
            '<script src="https://example.org/x.js"></script>',
            "index.html loads https://example.org/x.js",
        ),
    ],
)
def test_links_that_lead_nowhere_and_loads_from_elsewhere_are_found(
    element: str, fault: str | None, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(element)
    (tmp_path / "other.html").write_text('<p id="here"></p>')
    assert list(faults(tmp_path)) == ([] if fault is None else [fault])
