"""`python -m bench`: Trillium, a naive aggregator and a bare echo, side by side in one run.

With --peers, other servers stand beside them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.batches import shortfalls
from bench.checking import Reference
from bench.goals import GOALS, batch
from bench.h2load import LOADS
from bench.measuring import measure
from bench.peers.goals import PEER_GOALS
from bench.peers.known import PEERS
from bench.peers.starting import start_peers
from bench.processes import ROOT, end_on_sigterm
from bench.report import write
from bench.starting import second_starts
from bench.systems.known import OWN, with_workers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="trained iris models")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--slice-s", type=float, default=3.0, help="seconds of each slice")
    names = [load.name for load in LOADS]
    parser.add_argument("--loads", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all if none is named"
    )
    parser.add_argument(
        "--workers", type=int, help="measure the aggregator with so many workers, too"
    )
    parser.add_argument("--starts", type=int, default=3, help="starts of `trillium up` to time")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all, print the table, leave the results in --output.

    The answer is 1 if nothing could be measured, a system of ours answered wrong, or batches of a
    front were too small.
    """
    end_on_sigterm()
    parser = _parser()
    wanted = parser.parse_args(arguments)
    peers_wanted = list(PEERS) if wanted.peers == [] else wanted.peers or []
    if unknown := set(peers_wanted) - PEERS.keys():
        parser.error(f"no peer {min(unknown)!r}; there are {', '.join(PEERS)}")
    if shutil.which("h2load") is None:
        print("bench: there is no h2load: apt-get install nghttp2-client", file=sys.stderr)
        return 1
    missing = [
        str(wanted.models / f"iris-{label}.onnx") for label in ("setosa", "versicolor", "virginica")
    ]
    missing = [name for name in missing if not Path(name).exists()]
    if missing:
        print(f"bench: there is no {missing[0]}: make models", file=sys.stderr)
        return 1
    loads = [load for load in LOADS if load.name in wanted.loads]
    many = with_workers(wanted.workers) if wanted.workers else {}
    own = OWN | many
    with ExitStack() as stack:
        # Unix sockets want a short path.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")))
        systems = [stack.enter_context(start(wanted.models, folder)) for start in own.values()]
        reference = Reference(wanted.models)
        peers, absent = start_peers(peers_wanted, wanted.models, folder, reference, stack, say)
        measured = measure(
            [*systems, *peers],
            reference,
            loads=loads,
            rounds=wanted.rounds,
            slice_s=wanted.slice_s,
            folder=folder,
            say=say,
        )
    measured.absent |= absent
    starts = second_starts(wanted.models, wanted.starts)
    measured.start_s = [start.took_s for start in starts]
    measured.up_pss_bytes = [start.pss_bytes for start in starts]
    measured.started = starts[-1].processes if starts else ()
    settings = {"rounds": wanted.rounds, "slice_s": wanted.slice_s}
    names = [*own, *(peer.name for peer in peers)]
    goals = [*GOALS, *PEER_GOALS] if peers_wanted else GOALS
    tuned = {name: PEERS[name].tuned for name in peers_wanted}
    table = write(
        measured,
        names,
        loads,
        wanted.output,
        goals=goals,
        tuned=tuned,
        beside=dict.fromkeys(many, "trillium"),
        **settings,
    )
    print(table)
    means = {
        ("trillium", load.name): measured.middle(batch, load.name, "trillium") for load in loads
    }
    small = shortfalls(means)
    for sentence in small:
        say(f"bench: {sentence}")
    return int(bool(small) or not measured.absent.keys().isdisjoint(own))


def say(line: str) -> None:
    """Tell how far the run is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
