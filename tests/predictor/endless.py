"""A classifier that leaves the event loop for every run, and whose run of some rows hardly ends.

Tests that need a run in flight for as long as they like stop it themselves, and so take no time.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.sound_artifacts import slow
from trillium.rows import Rows

_THRESHOLD = 10_000
_MINUTES_OF_TURNS = 10_000_000

ENDLESS_ROWS: Rows = np.full((1, 4), 2 * _THRESHOLD, np.float32)
"""Scoring these goes on until it is stopped."""


@cache
def endless_on_demand(milliseconds: float = 4) -> bytes:
    """Takes about `milliseconds` for ordinary rows, with bit for bit the answers of `slow`."""
    model = onnx.load_from_string(slow(milliseconds))
    graph = model.graph
    (turns,) = (each for each in graph.initializer if each.name == "turns")
    turns.name = "ordinary_turns"
    for name, value in (("threshold", _THRESHOLD), ("minutes", _MINUTES_OF_TURNS)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["largest_long"], to=onnx.TensorProto.INT64),
        helper.make_node("Div", ["largest_long", "threshold"], ["times"]),
        helper.make_node("Mul", ["times", "minutes"], ["more_turns"]),
        helper.make_node("Add", ["ordinary_turns", "more_turns"], ["turns"]),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())
