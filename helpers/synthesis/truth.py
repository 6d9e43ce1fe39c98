"""The ground truth of documents: factors, spans, and those of tokens."""

import json
from collections.abc import Iterator

import pandas as pd


def factors(frame: pd.DataFrame) -> pd.DataFrame:
    """The factors of each document as columns, beside label, group, split.

    A factor of one of these names gets ``_factor`` behind it.
    """
    own = frame[["label", "group", "split"]]
    rows = pd.DataFrame(
        [json.loads(text) for text in frame["factors"]], index=frame.index
    )
    return own.join(rows.rename(columns={n: f"{n}_factor" for n in own}))


def spans(frame: pd.DataFrame) -> pd.DataFrame:
    """Every span, one row each: document, factor, value, start, end."""
    rows = [
        (index, *span)
        for index, text in zip(frame.index, frame["spans"], strict=True)
        for span in json.loads(text)
    ]
    names = ["document", "factor", "value", "start", "end"]
    return pd.DataFrame(rows, columns=names)


def spans_to_tokens(frame: pd.DataFrame, tokenizer) -> pd.DataFrame:
    """The factors of every token: document, position, token, factor, value.

    ``tokenizer`` is a ``tokenizers.Tokenizer``. A token has a factor if it
    shares a character with its span; pieces of one character (byte-level
    BPE) each have it. ``position`` counts the document's own tokens from 0;
    after a BOS token it is one further. One row for each token and span.
    """
    encodings = tokenizer.encode_batch(
        list(frame["text"]), add_special_tokens=False
    )
    rows = [
        (index, position, encoding.ids[position], factor, value)
        for index, text, encoding in zip(
            frame.index, frame["spans"], encodings, strict=True
        )
        for factor, value, start, end in json.loads(text)
        for position in tokens_in(encoding.offsets, start, end)
    ]
    names = ["document", "position", "token", "factor", "value"]
    return pd.DataFrame(rows, columns=names)


def tokens_in(offsets: list, start: int, end: int) -> Iterator[int]:
    """Positions of the tokens that share a character with [start, end)."""
    for position, (left, right) in enumerate(offsets):
        if max(left, start) < min(right, end):
            yield position
