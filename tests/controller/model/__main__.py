"""Searches deeper than the tests do: `python -m tests.controller.model --changes 2 --deaths 2`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from time import perf_counter

from controller.deployments.document import Target
from tests.controller.model.laws import Bounds
from tests.controller.model.mutations import MUTATIONS
from tests.controller.model.search import search


def main() -> int:
    """Search as the command line says; 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.controller.model", description=__doc__)
    for field in fields(Bounds):
        name = f"--{field.name.replace('_', '-')}"
        if field.type == "int":
            parser.add_argument(name, type=int, default=field.default)
        elif field.type == "bool":
            parser.add_argument(name, action="store_true")
    parser.add_argument("--refused", default="", help="a version that predictors refuse: m1, m2")
    parser.add_argument("--replace-only", action="store_true", help="the target stays LOADED")
    parser.add_argument("--attempts", type=int, help="short for one death fewer than that")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="break a rule")
    parser.add_argument("--most", type=int, default=10_000_000, help="states at most")
    given = vars(parser.parse_args())
    most, mutation, attempts = (given.pop(each) for each in ("most", "mutation", "attempts"))
    if given.pop("replace_only"):
        given["targets"] = (Target.LOADED,)
    if attempts is not None:
        given["deaths"] = max(0, attempts - 1)
    begun = perf_counter()
    laws = MUTATIONS[mutation].laws if mutation else None
    finding = search(Bounds(**given), laws, most=most)
    print(finding)
    print(f"{perf_counter() - begun:.1f} s in all")
    return 1 if finding.problem else 0


if __name__ == "__main__":
    raise SystemExit(main())
