"""Corpora as artifacts: parquet with a data-set card."""

import hashlib
from pathlib import Path

import pandas as pd

from helpers import artifacts, paths
from helpers.synthesis import corpus

DOCUMENTS = "documents.parquet"
QUARANTINE = "quarantine.parquet"
ACCOUNT = "account.json"


def make_corpus(
    profile: str, name: str, *, groups: int, seed: int = 0, writer=None
) -> Path:
    """Generate a corpus into its artifact folder, unless it is there.

    ``writer`` is None for the grammar, or ``written.Written``. Writes
    ``documents.parquet`` and a data-set card; for a language model also
    what was not used (``quarantine.parquet``, with the reason of each) and
    what it took (``account.json``). Returns the folder.
    """
    corpus.table_path(name)  # refuses an unknown name before all else
    parameters = {"corpus": name, "groups": groups, "seed": seed}
    if writer is None:
        make = _from_grammar(name, groups, seed)
    else:
        parameters["writer"] = _identity(writer)
        make = _from_model(writer, groups, seed)
    return artifacts.produce(
        paths.corpus(profile, name), make, parameters=parameters
    )


def load_corpus(path: Path) -> pd.DataFrame:
    """The document frame that ``make_corpus`` wrote."""
    return pd.read_parquet(artifacts.require(path) / DOCUMENTS)


def card_text(name: str, frame: pd.DataFrame, origin: str) -> str:
    """A short data-set card: what it is, how it was made, what to mind."""
    counts = frame.groupby(["label", "split"], sort=False).size()
    table = counts.unstack(fill_value=0).reset_index()
    return _CARD.format(
        name=name, origin=origin, counts=table.to_markdown(index=False),
        characters=frame["text"].str.len().sum(),
        factor=corpus.load_grammar(name).label_factor,
    )


def _from_grammar(name: str, groups: int, seed: int):
    def make(folder: Path) -> None:
        frame = corpus.generate(name, groups, seed)
        origin = f"the grammar in `helpers/synthesis/{name}.yaml`, seed {seed}"
        _write(folder, name, frame, origin)

    return make


def _from_model(writer, groups: int, seed: int):
    from helpers.synthesis import written

    def make(folder: Path) -> None:
        result = written.write(writer, groups, seed)
        frame = corpus.frame_of(corpus.rows_of(writer.corpus, result))
        rejected = pd.DataFrame(
            result.quarantine,
            columns=["group", "attempt", "reason", "detail", "reply"],
        )
        rejected.to_parquet(folder / QUARANTINE, index=False)
        artifacts.write_json(folder / ACCOUNT, result.account)
        _write(folder, writer.corpus, frame, _told(writer, result))

    return make


def _write(folder: Path, name: str, frame: pd.DataFrame, origin: str) -> None:
    frame.to_parquet(folder / DOCUMENTS, index=False)
    card = card_text(name, frame, origin)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _identity(writer) -> dict:
    """What of a ``Written`` can change its corpus; never where it is asked.

    The replies of a cassette are the corpus, so its content is part.
    """
    service = writer.service
    replayed = Path(writer.store).suffix == ".jsonl"
    return {
        "model": service.model,
        "temperature": service.temperature,
        "max_tokens": service.max_tokens,
        "attempts": writer.attempts,
        "cassette": hashlib.sha256(Path(writer.store).read_bytes()).hexdigest()
        if replayed else "",
    }


def _told(writer, result) -> str:
    """One line of the card: who wrote, what was kept, what it cost."""
    account = result.account
    return (
        f"the model {writer.service.model}; {account['complete']} of "
        f"{account['groups']} sets are complete, "
        f"{len(result.quarantine)} replies are in quarantine, "
        f"{account['cost_usd']:.2f} USD"
    )


_CARD = """---
configs:
- config_name: default
  data_files: documents.parquet
---
# {name}

A synthetic corpus with per-token ground truth, written by {origin};
{characters} characters. Each document's label is its *{factor}*. Documents
of one `group` are a matched set and are never divided between training and
held-out.

{counts}

Columns: text, corpus, label, group, split, factors (JSON: factor to value),
spans (JSON: [factor, value, start, end], characters, end exclusive).

The sentences of a grammar follow templates: they are grammatical and their
labels are certain, but they are narrower than what people write.
"""
