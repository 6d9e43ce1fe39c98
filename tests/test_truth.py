"""Ground truth by token, against what bytes and characters say.

Three tokenizers that cut text in three ways: a byte-level BPE (which
splits characters), WordPiece (which normalises, and skips spaces) and one
that takes single characters. For each there is a second way to say which
characters a token covers, which does not use its offsets.
"""

import json
import random
import unicodedata

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from helpers import synthesis

SCRIPTS = "abz éœ 책을.읽 那本书。 שלום الرسالة 🙂e\u0301 \n{}"


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(tokenizer, trainers.BpeTrainer(
        vocab_size=400, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer(
        vocab_size=1500, show_progress=False, special_tokens=["[UNK]"]
    ))


def characters() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[\s\S]"), "isolated"
    )
    return trained(tokenizer, trainers.WordLevelTrainer(
        show_progress=False, special_tokens=["[UNK]"]
    ))


def trained(tokenizer, trainer) -> Tokenizer:
    texts = synthesis.generate("languages", 20, seed=9)["text"]
    tokenizer.train_from_iterator(list(texts), trainer)
    return tokenizer


def covered_by_bytes(tokenizer, text) -> list[set[int]]:
    """The characters of each byte-level token, from its very bytes."""
    alphabet = byte_alphabet()
    owner = [i for i, char in enumerate(text) for _ in char.encode()]
    found, at = [], 0
    for token in tokenizer.encode(text).tokens:
        raw = bytes(alphabet[char] for char in token)
        assert text.encode()[at : at + len(raw)] == raw
        found.append(set(owner[at : at + len(raw)]))
        at += len(raw)
    assert at == len(owner)
    return found


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in of every byte, and back."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    table = {chr(b): b for b in plain}
    return table | {chr(256 + i): b for i, b in enumerate(rest)}


def covered_by_search(tokenizer, text) -> list[set[int]]:
    """The characters of each WordPiece token: the next that spell it."""
    found, at = [], 0
    encoding = tokenizer.encode(text)
    for token, (start, end) in zip(
        encoding.tokens, encoding.offsets, strict=True
    ):
        piece = token.removeprefix("##")
        if piece != "[UNK]":
            spelt = tokenizer.normalizer.normalize_str(text[start:end])
            assert spelt.strip() == piece
        assert start >= at
        assert not any(is_letter(char) for char in text[at:start])
        found.append(set(range(start, end)))
        at = end
    return found


def is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] == "L"


def covered_one_by_one(tokenizer, text) -> list[set[int]]:
    return [{i} for i in range(len(text))]


KINDS = {
    "byte-level BPE": (byte_level, covered_by_bytes),
    "WordPiece": (wordpiece, covered_by_search),
    "character": (characters, covered_one_by_one),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer_and_cover(request):
    build, cover = KINDS[request.param]
    return build(), cover


def check(tokenizer, cover, text: str, spans: list) -> int:
    """Every token has a factor if and only if it covers some of its span."""
    frame = pd.DataFrame({"text": [text], "spans": [json.dumps(spans)]})
    found = synthesis.spans_to_tokens(frame, tokenizer)
    rows = sorted(zip(found["factor"], found["value"], found["position"],
                      strict=True))
    wanted = sorted(
        (factor, value, position)
        for factor, value, start, end in spans
        for position, chars in enumerate(cover(tokenizer, text))
        if chars & set(range(start, end))
    )
    assert rows == wanted
    return len(rows)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_tokens_of_any_span_of_any_text(tokenizer_and_cover, data):
    text = data.draw(st.text(st.sampled_from(SCRIPTS), min_size=1, max_size=60))
    edges = st.integers(0, len(text))
    pairs = data.draw(st.lists(st.tuples(edges, edges), max_size=4))
    spans = [
        [f"factor {i}", "value", min(pair), max(pair)]
        for i, pair in enumerate(pairs)
    ]
    check(*tokenizer_and_cover, text, spans)


@pytest.mark.parametrize("name", synthesis.CORPORA)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**9))
def test_tokens_of_every_corpus_and_script(tokenizer_and_cover, name, seed):
    for document in synthesis.load_grammar(name).group(random.Random(seed)):
        assert check(*tokenizer_and_cover, document.text, document.spans)


def test_pieces_of_one_character_each_have_its_factor():
    tokenizer = byte_level()
    frame = pd.DataFrame({"text": ["a🙂b"],
                          "spans": ['[["mood", "glad", 1, 2]]']})
    found = synthesis.spans_to_tokens(frame, tokenizer)
    assert len(tokenizer.encode("🙂").ids) == 4
    assert list(found["position"]) == [1, 2, 3, 4]
