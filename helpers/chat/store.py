"""Where replies are kept: a store that grows, a cassette that replays.

A kept reply is a dict: text, refusal, finish (the finish reason), model (as
the server names it), prompt_tokens, completion_tokens and cost (USD).
"""

import json
import sqlite3
from pathlib import Path

from helpers import artifacts
from helpers.errors import InputError

WAIT = 30.0  # seconds for another process to finish its commit


class Store:
    """Replies in one SQLite file, made when it is not there.

    Each ``put`` is a transaction of its own, durable when it returns. One
    store may be used from several threads and processes.
    Raises InputError where the file is no store or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, WAIT, check_same_thread=False
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies"
                " (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> dict | None:
        """The reply kept under a key, or None."""
        query = "SELECT reply FROM replies WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, reply: dict) -> None:
        """Commit a reply. InputError if the disk is full or locked."""
        row = (key, json.dumps(reply, sort_keys=True))
        try:
            with self._database:
                self._database.execute(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?)", row
                )
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def __len__(self) -> int:
        query = "SELECT count(*) FROM replies"
        return self._database.execute(query).fetchone()[0]

    def export(self, path: Path) -> Path:
        """Write all replies as a cassette, atomically; returns ``path``.

        JSON lines sorted by key: equal replies give equal bytes.
        """
        query = "SELECT key, reply FROM replies ORDER BY key"
        lines = [
            json.dumps({"key": name, **json.loads(reply)}) + "\n"
            for name, reply in self._database.execute(query)
        ]
        artifacts.write_text(path, "".join(lines))
        return Path(path)

    def _unusable(self, error: Exception) -> InputError:
        return InputError(
            f"the store {self.path.name} cannot be used ({error}); give a "
            "path to a file that ask wrote, or to none yet, where there is "
            "space"
        )


class Cassette:
    """Replies exported from a store, read-only.

    Raises InputError if the file is missing or a line is no reply.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._replies = {}
        try:
            lines = self.path.read_text().splitlines()
        except OSError:
            raise InputError(
                f"there is no cassette {self.path}; Store.export writes one"
            ) from None
        for number, line in enumerate(lines, 1):
            self._add(number, line)

    def get(self, key: str) -> dict | None:
        """The reply kept under a key, or None."""
        return self._replies.get(key)

    def __len__(self) -> int:
        return len(self._replies)

    def lacks(self, number: int, total: int) -> InputError:
        """The error for request ``number`` of ``total``, not on it."""
        return InputError(
            f"the cassette {self.path.name} has no reply to request {number} "
            f"of {total}; ask a model with a Store instead, or go back to "
            "the requests and settings it was recorded with"
        )

    def _add(self, number: int, line: str) -> None:
        try:
            reply = json.loads(line)
            self._replies[reply.pop("key")] = reply
        except (ValueError, KeyError, AttributeError, TypeError):
            raise InputError(
                f"line {number} of the cassette {self.path.name} is no "
                "reply; Store.export writes them"
            ) from None
