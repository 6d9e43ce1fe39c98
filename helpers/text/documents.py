"""What every source of natural text yields, and how much of it is kept."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DOCUMENTS = "documents.parquet"  # a document frame, in its artifact


class Document(NamedTuple):
    """One piece of natural text."""

    text: str
    label: str  # "prose" or "code"
    source: str  # where it came from, for attribution
    unit: str  # the file it is a piece of; never divided between splits


def read_frame(path: Path, columns: list[str] | None = None):
    """The document frame in an artifact's folder (pandas)."""
    import pandas as pd

    return pd.read_parquet(path / DOCUMENTS, columns=columns)


def order_key(seed: int, name: str) -> bytes:
    """A sort key that puts names in a seeded pseudo-random order.

    Unlike a shuffle, it does not change how two names are ordered when a
    third one comes or goes.
    """
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def collect(
    documents: Iterable[Document], quotas: dict[str, float], progress=None
) -> tuple[list[Document], int]:
    """Take documents in order until each label has its quota of bytes.

    Blank texts and those seen before are skipped; what UTF-8 cannot hold
    (halves of surrogate pairs) becomes a question mark. Returns the
    documents and how many exact duplicates were met. ``documents`` is read
    no further than needed.
    """
    left, seen, kept, repeated = dict(quotas), set(), [], 0
    for document in documents:
        if left.get(document.label, 0) <= 0:
            continue
        raw = document.text.strip().encode(errors="replace")
        if not raw:
            continue
        key = hashlib.sha256(raw).digest()
        if key in seen:
            repeated += 1
            continue
        seen.add(key)
        kept.append(document._replace(text=raw.decode()))
        left[document.label] -= len(raw)
        if progress:
            progress.update(len(raw) / 1e6)
        if max(left.values()) <= 0:
            break
    return kept, repeated
