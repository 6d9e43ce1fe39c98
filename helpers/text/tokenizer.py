"""The tokenizer: byte-level BPE, trained on the mix.

Three choices keep strings that are random by construction near one token a
character, so that a model has little to learn before it reaches their
entropy: spans of drawn characters are left out of the training text,
digits are never merged, nor is anything in a long run that only a machine
writes (``NOISE``). How far a bigram model of the tokens stays above the true
entropy, counted on 250,000 characters of each (vocabulary 4,096):

                              DNA   hexadecimal   base64   bytes a token
    spans trained on        2.10%         2.56%    5.45%           3.137
    spans left out          0.11%         0.82%    4.51%           3.151
    ... and single digits   0.11%         0.23%    3.85%           3.117
    ... and NOISE           0.11%         0.23%    0.22%           3.117

The last column is the price, on held-out natural text.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.text.documents import read_frame

END_OF_TEXT = "<|endoftext|>"  # token 0: before every document
# The factors of spans in which nothing is frequent but by chance: characters
# drawn evenly, and genes, whose codons are.
UNMERGED = ("random", "gene")
FILE = "tokenizer.json"
_R = "[A-Za-z0-9+/]"
# Each character of a run of at least 24 letters and digits that has a digit,
# a capital and a small letter: where the run starts (the lookaheads check
# it), or where the last match ended (\G) inside one.
NOISE = (
    rf"\G(?<={_R}){_R}|(?<!{_R})(?={_R}{{24}})(?=[A-Za-z+/]*[0-9])"
    rf"(?=[a-z0-9+/]*[A-Z])(?=[A-Z0-9+/]*[a-z]){_R}"
)
SMALLEST, LARGEST = 257, 65_536  # all bytes and token 0; what uint16 holds
SYNTHETIC = 0.1  # text read of a synthetic corpus, over that of natural text


def make_tokenizer(
    profile: str,
    sources: list[Path],
    vocab_size: int = 4096,
    megabytes: float = 10.0,
) -> Path:
    """Train a byte-level BPE on the train split of document frames.

    ``sources`` are artifacts with a documents.parquet: natural text, of
    which the first ``megabytes`` (10^6 bytes) are read, and synthetic
    corpora, of which a tenth as much each. Raises InputError for a
    vocabulary that bytes do not fit in or that does not fit in 16 bits.
    """
    if not SMALLEST <= vocab_size <= LARGEST:
        raise InputError(
            f"vocab_size is {vocab_size}; it must be between {SMALLEST} "
            f"(every byte) and {LARGEST} (16-bit tokens)"
        )

    def make(folder: Path) -> None:
        texts = (t for path in sources for t in _texts(path, megabytes))
        train(texts, vocab_size).save(str(folder / FILE))

    return artifacts.produce(
        paths.tokenizer(profile),
        make,
        parameters={"vocab_size": vocab_size, "megabytes": megabytes},
        inputs=sources,
    )


def load_tokenizer(path: Path):
    """The ``tokenizers.Tokenizer`` of an artifact."""
    from tokenizers import Tokenizer

    _parallel()
    return Tokenizer.from_file(str(artifacts.require(path) / FILE))


def train(texts: Iterator[str], vocab_size: int):
    """A ``tokenizers.Tokenizer``; the same texts give the same one."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    _parallel()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(NOISE), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_hugging_face(tokenizer):
    """The same tokenizer as a ``transformers.PreTrainedTokenizerFast``.

    Token 0 is its beginning, end and padding: what a TransformerLens model
    expects of ``model.tokenizer``.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )


def without_random(text: str, spans: str) -> list[str]:
    """A text's pieces around its spans of the ``UNMERGED`` factors.

    ``spans`` is a JSON list of [factor, value, start, end].
    """
    pieces, last = [], 0
    for factor, _, start, end in sorted(json.loads(spans), key=_start):
        if factor in UNMERGED and start >= last:
            pieces.append(text[last:start])
            last = end
    pieces.append(text[last:])
    return [piece for piece in pieces if piece]


def _start(span: list) -> int:
    return span[2]


def _texts(path: Path, megabytes: float) -> Iterator[str]:
    frame = read_frame(path)
    frame = frame[frame.split == "train"]
    left = megabytes * 1e6
    if "spans" in frame:
        left *= SYNTHETIC
    spans = frame["spans"] if "spans" in frame else ["[]"] * len(frame)
    for text, found in zip(frame.text, spans, strict=True):
        for piece in without_random(text, found):
            yield piece
            left -= len(piece.encode())
        if left <= 0:
            return


def _parallel() -> None:
    # Explicit, or tokenizers warns in every process that is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
