"""What keeps an ensemble from being trained."""

from __future__ import annotations


class TrainingRefused(Exception):
    """Nothing was written. `str()` of it is a sentence for a person: why, and what is allowed."""


class TableRefused(TrainingRefused, ValueError):
    """The table cannot be trained on; the sentence names the column and the value."""


class PackagesMissing(TrainingRefused, ImportError):
    """A package that training needs is not installed; the text names the command to install it."""


class NotGoodEnough(TrainingRefused):
    """The models were trained, and must not be published as they are."""
