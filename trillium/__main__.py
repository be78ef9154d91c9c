"""`python -m trillium` is the command `trillium`."""

from __future__ import annotations

from trillium.cli import main

if __name__ == "__main__":
    main()
