"""Token streams: the mix that a language model is trained on, and tests.

``train.npy`` is one stream of tokens (of 16 bits, or 32 where a vocabulary
is larger): shuffled documents, natural and synthetic, each preceded by
token 0. ``held_out.npy`` has one row for a held-out document, cut to one
context; ``held_out.parquet`` says which.
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.progress import track
from helpers.text.documents import read_frame
from helpers.text.tokenizer import END_OF_TEXT, LARGEST, load_tokenizer

BATCH = 1000  # documents encoded at a time
TRAIN, HELD_OUT, ROWS = "train.npy", "held_out.npy", "held_out.parquet"
SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token streams of one run; see ``load_tokens``."""

    train: np.ndarray  # uint16 or uint32 [n_tokens], memory-mapped
    held_out: dict[str, np.ndarray]  # class -> the same [n_docs, context]
    lengths: dict[str, np.ndarray]  # class -> int64 [n_docs], token 0 counted
    vocab_size: int
    context: int
    summary: dict  # what went in, see ``make_tokens``
    path: Path

    @functools.cached_property
    def documents(self):
        """The held-out documents: class, row (in its class), length, text,
        corpus, label, group and, of synthetic ones, factors and spans."""
        import pandas as pd

        return pd.read_parquet(self.path / ROWS)


def make_tokens(
    profile: str,
    natural: Path,
    corpora: list[Path],
    tokenizer: Path,
    tokens: int = 10_000_000,
    synthetic_share: float = 0.3,
    context: int = 128,
    held_out_documents: int = 200,
    seed: int = 0,
) -> Path:
    """Encode the mix: ``tokens`` for training, rows of tests per class.

    ``synthetic_share`` of the training tokens is synthetic, from the corpora
    in proportion to their size (tokens for training). Nothing is repeated:
    where the natural text is too short everything shrinks with it, and a
    corpus that is too short gives all it has. summary.json tells what was
    asked for and given: train tokens and documents per class, held-out rows
    per class.

    Raises InputError if the natural text, where it has a share, or all text
    together does not fill one context.
    """
    _check(tokens, synthetic_share, context, held_out_documents)

    def make(folder: Path) -> None:
        mix = Mix(load_tokenizer(tokenizer), seed)
        frames = [_frame(path) for path in [natural, *corpora]]
        taken = mix.choose(frames, tokens, synthetic_share)
        stream, summary = mix.stream(taken)
        if synthetic_share < 1:
            _fills(_natural(summary["train_tokens"]), context, "natural text")
        _fills(len(stream), context, "text")
        np.save(folder / TRAIN, stream)
        rows = mix.held_out(frames, held_out_documents, context, folder)
        vocabulary = mix.tokenizer.get_vocab_size()
        summary |= {"asked": tokens, "synthetic_share_asked": synthetic_share,
                    "held_out_rows": rows, "vocab_size": vocabulary,
                    "context": context}
        artifacts.write_json(folder / SUMMARY, summary)

    return artifacts.produce(
        paths.tokens(profile),
        make,
        parameters={
            "tokens": tokens, "synthetic_share": synthetic_share,
            "context": context, "held_out_documents": held_out_documents,
            "seed": seed,
        },
        inputs=[natural, *corpora, tokenizer],
    )


def load_tokens(path: Path) -> Tokens:
    """Open the token streams of an artifact; ``train`` stays on disk."""
    import pandas as pd

    path = artifacts.require(path)
    summary = json.loads((path / SUMMARY).read_text())
    matrix = np.load(path / HELD_OUT)
    rows = pd.read_parquet(path / ROWS, columns=["class", "length"])
    at = rows.groupby("class").indices
    return Tokens(
        train=np.load(path / TRAIN, mmap_mode="r"),
        held_out={name: matrix[i] for name, i in at.items()},
        lengths={
            name: rows.length.to_numpy()[i] for name, i in at.items()
        },
        vocab_size=summary["vocab_size"],
        context=summary["context"],
        summary=summary,
        path=path,
    )


def text_classes(frame):
    """The class of each document: ``prose``, ``code``, ``corpus/label``."""
    natural = frame.corpus == "natural"
    return frame.label.where(natural, frame.corpus + "/" + frame.label)


def _frame(path: Path):
    """A document frame with its ``class`` column."""
    return (frame := read_frame(path)).assign(**{"class": text_classes(frame)})


def token_dtype(vocab_size: int) -> type:
    """The type of token numbers: 16 bits, 32 if the vocabulary needs them."""
    return np.uint16 if vocab_size <= LARGEST else np.uint32


class Mix:
    """Chooses and encodes documents in an order that the seed gives."""

    def __init__(self, tokenizer, seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        self.start = tokenizer.token_to_id(END_OF_TEXT)
        self.random = np.random.default_rng(seed)
        self.dtype = token_dtype(tokenizer.get_vocab_size())

    def choose(self, frames, tokens: int, share: float) -> list:
        """(class, tokens) of the train documents chosen from each frame."""
        natural, *synthetic = frames
        share = share if synthetic else 0.0
        with track("encoding text", tokens) as progress:
            taken = self._take(natural, tokens * (1 - share), progress)
            got = sum(len(ids) for _, ids in taken)
            whole = min(tokens, got / (1 - share)) if share < 1 else tokens
            sizes = [self._size(frame) for frame in synthetic]
            for frame, size in zip(synthetic, sizes, strict=True):
                quota = whole * share * size / max(sum(sizes), 1)
                taken += self._take(frame, quota, progress)
        return taken

    def stream(self, taken: list) -> tuple[np.ndarray, dict]:
        """The chosen documents, shuffled, as one stream [n_tokens],
        and the count of tokens and documents per class."""
        counts: dict[str, list[int]] = {}
        for name, ids in taken:
            count = counts.setdefault(name, [0, 0])
            count[0] += len(ids)
            count[1] += 1
        order = self.random.permutation(len(taken))
        pieces = [taken[i][1] for i in order] or [np.empty(0, self.dtype)]
        summary = {
            "train_tokens": {k: v[0] for k, v in sorted(counts.items())},
            "train_documents": {k: v[1] for k, v in sorted(counts.items())},
        }
        return np.concatenate(pieces), summary

    def held_out(self, frames, count: int, context: int, folder: Path):
        """Write the held-out rows; returns how many there are per class."""
        import pandas as pd

        chosen = [self._sample(frame, count) for frame in frames]
        rows = pd.concat(chosen, ignore_index=True)
        ids = [piece[:context] for piece in self._encode(list(rows.text))]
        matrix = np.zeros((len(ids), context), self.dtype)
        for row, piece in zip(matrix, ids, strict=True):
            row[: len(piece)] = piece
        rows["row"] = rows.groupby("class").cumcount()
        rows["length"] = [len(piece) for piece in ids]
        np.save(folder / HELD_OUT, matrix)
        rows.to_parquet(folder / ROWS, index=False)
        return rows.groupby("class").size().to_dict()

    def _size(self, frame) -> float:
        """Tokens of the train documents, from a spread-out thousand."""
        train = frame.text[frame.split == "train"]
        sample = train.iloc[:: -(-len(train) // BATCH) or 1]
        counts = [len(ids) for ids in self._encode(list(sample))]
        return sum(counts) / max(len(counts), 1) * len(train)

    def _take(self, frame, quota: float, progress) -> list:
        """Train documents in shuffled order up to ``quota`` tokens; the last
        one may go over it."""
        train = frame[frame.split == "train"]
        order = self.random.permutation(len(train))
        taken, got = [], 0
        for first in range(0, len(order), BATCH):
            part = train.iloc[order[first : first + BATCH]]
            encoded = self._encode(list(part.text))
            for name, ids in zip(part["class"], encoded, strict=True):
                if got >= quota:
                    return taken
                taken.append((name, ids))
                got += len(ids)
                progress.update(len(ids))
        return taken

    def _sample(self, frame, count: int):
        """Up to ``count`` held-out documents of each class of a frame."""
        held = frame[frame.split == "held_out"]
        held = held.iloc[self.random.permutation(len(held))]
        held = held[held.groupby("class").cumcount() < count]
        return held.sort_values("class", kind="stable")

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        """Each text as numbers [1 + n_tokens], token 0 first."""
        encoded = self.tokenizer.encode_batch_fast(
            texts, add_special_tokens=False
        )
        return [np.array([self.start, *e.ids], self.dtype) for e in encoded]


def _natural(train_tokens: dict[str, int]) -> int:
    """Tokens of the natural classes, whose names have no corpus."""
    return sum(n for name, n in train_tokens.items() if "/" not in name)


def _fills(tokens: int, context: int, what: str) -> None:
    if tokens < context:
        raise InputError(
            f"the {what} holds {tokens} training tokens, fewer than one "
            f"context of {context}; give more text or a shorter context"
        )


def _check(tokens, synthetic_share, context, held_out_documents) -> None:
    if tokens < 1 or held_out_documents < 1 or context < 2:
        raise InputError(
            "tokens and held_out_documents must be at least 1 and context "
            f"at least 2; they are {tokens}, {held_out_documents}, {context}"
        )
    if not 0 <= synthetic_share <= 1:
        raise InputError(
            f"synthetic_share is {synthetic_share}; it must be between 0 "
            "and 1"
        )
