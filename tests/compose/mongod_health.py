"""As mongosh in compose.yaml: make it a replica set of one, and say whether it takes writes."""

from __future__ import annotations

import sys
import time

from pymongo import MongoClient
from pymongo.errors import OperationFailure

NOT_YET_INITIALIZED = 94


def main() -> int:
    """0 if it is primary within four seconds."""
    client: MongoClient[dict[str, object]] = MongoClient(
        "mongodb://127.0.0.1:27017/?directConnection=true", serverSelectionTimeoutMS=3000
    )
    try:
        client.admin.command("replSetGetStatus")
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        member = {"_id": 0, "host": "mongo:27017"}
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
    for _ in range(40):
        if client.admin.command("hello")["isWritablePrimary"]:
            return 0
        time.sleep(0.1)
    return 1


if __name__ == "__main__":
    sys.exit(main())
