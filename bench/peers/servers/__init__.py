"""Programs that run in the environments of the peers; they import nothing of the project's own."""

from pathlib import Path

SERVERS = Path(__file__).parent
