"""The packages that training needs in addition to those of the client."""

from __future__ import annotations

from importlib.util import find_spec

from trillium.training.errors import PackagesMissing

_PROVIDED = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "skl2onnx": "skl2onnx",
    "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl",
}
"""What is imported, and what provides it."""


def check_packages() -> None:
    """Raise PackagesMissing unless everything that training imports is installed."""
    check_package(*_PROVIDED)


def check_package(*modules: str) -> None:
    """Raise PackagesMissing unless these modules are installed."""
    missing = [_PROVIDED.get(each, each) for each in modules if find_spec(each) is None]
    if missing:
        text = f"training needs {', '.join(missing)}, not installed here"
        raise PackagesMissing(f"{text}; install it: pip install {' '.join(missing)}")
