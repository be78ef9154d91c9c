"""Which of two columns is the class, where neither the artifact nor the caller declares it.

Pure. A column is inferred only where every interpretation of the artifact leads to the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

from trillium.model.declared import DeclaredFacts

from .graph import Unusable

_TRUTH = {"false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_REST = frozenset({"rest", "other", "others", "negative", "neg"})
"""Keys that mark the rest, as a class of that name would."""


def with_column_of_key(
    facts: DeclaredFacts, keys: Sequence[int | str]
) -> tuple[DeclaredFacts, str]:
    """The facts, with the class found among ZipMap's keys if its column is not declared, and a
    sentence on what that was inferred from; empty if nothing was.

    Keys are labels of the ensemble, or they mark the rest and the class, as 0 and 1 do after
    training on `y == label`. Names of classes are matched by name. Of two numbers or truth values
    only the greater is: it is the class in both interpretations. Raises Unusable for the lesser
    one, and for a word like "rest": both are as likely to mark the rest.
    """
    names = [str(key) for key in keys]
    if facts.positive_column is not None or names.count(facts.class_label) != 1:
        return facts, ""
    column = names.index(facts.class_label)
    own, other = _number(names[column]), _number(names[1 - column])
    is_lesser = own is not None and other is not None and not own > other
    if is_lesser or names[column].strip().lower() in _REST:
        text = f"ZipMap's keys {names[0]} and {names[1]} do not show which column is the class"
        raise Unusable(
            f"{text} {facts.class_label!r}: they may be labels of classes, or mark the rest and "
            "the class; give --positive-column (positive_column in the JSON file next to the "
            f"model): {column} if key {names[column]} is the class, {1 - column} if it is the rest"
        )
    note = f"the class is column {column} of 2, since ZipMap's key {names[column]!r} names it"
    return facts.overridden_by(DeclaredFacts(positive_column=column)), note


def check_column_is_of_class(artifact: DeclaredFacts, declared: DeclaredFacts) -> None:
    """Refuse an artifact's own column for another class of its ensemble than its own.

    A class may be given another name than the artifact's, and its column stays. Raises Unusable.
    """
    label = declared.class_label
    if label in ("", artifact.class_label) or label not in artifact.class_labels:
        return
    if artifact.class_label and declared.positive_column is None:
        text = f"the artifact recognizes class {artifact.class_label!r}, not {label!r}"
        raise Unusable(
            f"{text}, another class of its ensemble: choose the artifact of {label!r}, or give "
            "--positive-column (positive_column in the JSON file next to the model) as well"
        )


def _number(key: str) -> float | None:
    """The number or truth value that a key is; None if it is a name."""
    word = key.strip().lower()
    try:
        return _TRUTH[word] if word in _TRUTH else float(word)
    except ValueError:
        return None
