"""`python -m tests.compose.predicting ADDRESS`: predicts until its standard input ends.

Prints a line for each prediction: "answered", or how it failed.
"""

from __future__ import annotations

import sys
import threading

from tests.compose.system import ROWS
from trillium import Client
from trillium.errors import TrilliumError


def main() -> None:
    """Run the command line."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with Client(sys.argv[1], timeout_s=10) as client:
        while not ended.wait(0.02):
            try:
                client.predict(ROWS)
                print("answered", flush=True)
            except TrilliumError as failure:
                print(" ".join(str(failure).split()), flush=True)


if __name__ == "__main__":
    main()
