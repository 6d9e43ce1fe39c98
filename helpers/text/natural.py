"""Natural text as an artifact: read, cleared of duplicates, split."""

import hashlib
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.progress import track
from helpers.text.documents import DOCUMENTS, Document, collect, read_frame
from helpers.text.duplicates import THRESHOLD, first_of_near_duplicates
from helpers.text.sources import fingerprint, read

HELD_OUT = 0.05  # share of the files (or documents) kept from training
FEW = 20  # with fewer files than this, documents are split instead
SUMMARY = "summary.json"


def make_natural_text(
    profile: str,
    source: str = "environment",
    megabytes: float = 25.0,
    code_share: float = 0.2,
    field: str = "text",
    seed: int = 0,
) -> Path:
    """Read natural text and store it as a document frame.

    ``source`` is ``"environment"`` (docstrings and source code of the
    packages in requirements.lock), the path of a ``.txt``, ``.jsonl`` or
    ``.parquet`` file or of a folder of them, or ``"dataset:NAME"`` /
    ``"dataset:NAME:CONFIG"`` (Hugging Face, streamed). ``field`` names the
    column or key that holds the text. At most ``megabytes`` (10^6 bytes)
    of distinct documents are read, ``code_share`` of them Python code (from
    the environment only; any other source is all prose), then near
    duplicates are removed. About 5% of the files are held out.

    Raises InputError for a source that cannot be read or is empty.
    """
    _check(megabytes, code_share)
    state = fingerprint(source, field)
    quotas = {"prose": megabytes * 1e6}
    if source == "environment":
        quotas = {"prose": megabytes * (1 - code_share) * 1e6,
                  "code": megabytes * code_share * 1e6}
        quotas = {label: quota for label, quota in quotas.items() if quota}

    def make(folder: Path) -> None:
        with track("reading text", megabytes) as progress:
            found, repeated = collect(
                read(source, field, seed), quotas, progress
            )
        if not found:
            raise InputError(f"the text source {source!r} holds no text")
        _store(folder, found, repeated)

    return artifacts.produce(
        paths.natural_text(profile),
        make,
        parameters={"source": state, "quotas": quotas, "seed": seed},
    )


def load_documents(path: Path):
    """A document frame: text, corpus, label, group, split, source...

    ``path`` is the artifact of natural text or of a synthetic corpus.
    """
    return read_frame(artifacts.require(path))


def _check(megabytes: float, code_share: float) -> None:
    if not megabytes > 0:
        raise InputError(f"megabytes is {megabytes}; it must be above 0")
    if not 0 <= code_share <= 1:
        raise InputError(
            f"code_share is {code_share}; it must be between 0 and 1"
        )


def _store(folder: Path, found: list[Document], repeated: int) -> None:
    keep = first_of_near_duplicates([document.text for document in found])
    frame = to_frame([d for d, kept in zip(found, keep, strict=True) if kept])
    frame.to_parquet(folder / DOCUMENTS, index=False)
    size = frame.text.str.encode("utf-8").str.len()
    summary = {
        "read": len(found),
        "exact_duplicates": repeated,
        "near_duplicates": len(found) - len(frame),
        "near_duplicate_threshold": THRESHOLD,
        "documents": frame.groupby("label").size().to_dict(),
        "megabytes": (size.groupby(frame.label).sum() / 1e6).to_dict(),
        "sources": int(frame.group.nunique()),
        "held_out": int((frame.split == "held_out").sum()),
    }
    artifacts.write_json(folder / SUMMARY, summary)


def to_frame(documents: list[Document]):
    """Documents as a frame, each file wholly in one split."""
    import pandas as pd

    frame = pd.DataFrame(documents, columns=list(Document._fields))
    if frame.unit.nunique() < FEW:
        frame["unit"] = frame.source
    held_out = pd.concat(
        [held_out_units(part) for _, part in frame.groupby("label").unit]
    )
    split = frame.unit.isin(held_out).map({True: "held_out", False: "train"})
    return pd.DataFrame(
        {
            "text": frame.text,
            "corpus": "natural",
            "label": frame.label,
            "group": pd.factorize(frame.unit)[0].astype("int64"),
            "split": split,
            "source": frame.source,
        }
    )


def held_out_units(units):
    """The units held out: those whose hash is lowest, at least one.

    Every label has some, and ranks by one hash agree between labels, so
    little more than ``HELD_OUT`` of all units is chosen. A single unit is
    left to training.
    """
    import pandas as pd

    unique = sorted(units.unique(), key=_rank)
    count = max(1, round(HELD_OUT * len(unique))) if len(unique) > 1 else 0
    return pd.Series(unique[:count], dtype=object)


def _rank(unit: str) -> bytes:
    return hashlib.sha256(f"held out {unit}".encode()).digest()
