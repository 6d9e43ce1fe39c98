"""The feature table against dense activations and a small case by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import artifacts, features
from helpers.errors import InputError
from tests.test_activations import HOOKS, tiny_model


def table():
    """Two documents, of tokens [7, 8] and [9]; three features."""
    return features.FeatureTable(
        d_sae=3,
        threshold=0.1,
        values=np.array([1.0, 4.0, 2.0, 3.0], dtype=np.float16),
        indices=np.array([0, 2, 0, 2], dtype=np.int32),
        indptr=np.array([0, 2, 3, 4]),
        token_ids=np.array([7, 8, 9], dtype=np.uint16),
        documents=np.array([4, 6]),
        offsets=np.array([0, 2, 3]),
        char_start=np.array([0, 1, 0], dtype=np.int32),
        char_end=np.array([1, 3, 2], dtype=np.int32),
    )


def test_by_hand():
    made = table()
    dense = [[1, 0, 4], [2, 0, 0], [0, 0, 3]]
    assert made.matrix().toarray().tolist() == dense
    assert made.document_max().tolist() == [[2, 0, 4], [0, 0, 3]]
    assert made.density().tolist() == [2 / 3, 0, 2 / 3]
    assert made.feature(2).tolist() == [4, 0, 3]
    assert made.document(0, 0).tolist() == [1, 2]
    assert (made.n_tokens, made.n_documents) == (3, 2)


def test_top_tokens_by_hand():
    top = table().top_tokens(0, 5)
    assert top["activation"].tolist() == [2, 1]
    assert top["position"].tolist() == [1, 0]
    assert top["token_id"].tolist() == [8, 7]
    assert top["before"].tolist() == [[7], []]
    assert top["after"].tolist() == [[], [8]]
    assert table().top_tokens(2, 1)["document"].tolist() == [0]
    assert len(table().top_tokens(1)) == 0
    with pytest.raises(InputError, match="no feature 3; .* features 0 to 2"):
        table().top_tokens(3)


def tokenizer():
    """A byte-level tokenizer that fits the tiny model's 30 ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    ids = {"<|endoftext|>": 0} | {c: i + 1 for i, c in enumerate(letters)}
    made = Tokenizer(models.BPE(ids, []))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


TEXTS = ["abc de", "fghijklmnopq", "", "z"]


def tabulated(**arguments):
    coder = features.Neurons(32, HOOKS[0])
    return features.tabulate(
        tiny_model(), coder, tokenizer(), TEXTS, np.arange(4), **arguments
    )


def test_the_table_holds_what_the_model_computes():
    made = tabulated(rows_per_pass=2)
    dense = made.matrix().toarray()
    assert np.diff(made.offsets).tolist() == [5, 7, 0, 1]  # 8 with BOS
    for document, text in enumerate(["abcde", "fghijkl", "", "z"]):
        ids = [0] + [ord(c) - 96 for c in text]
        _, cache = tiny_model().run_with_cache(torch.tensor([ids]))
        start, end = made.offsets[document : document + 2]
        assert made.token_ids[start:end].tolist() == ids[1:]
        expected = cache[HOOKS[0]][0, 1:].numpy()
        expected = np.where(expected > features.THRESHOLD, expected, 0)
        np.testing.assert_allclose(
            dense[start:end], expected, atol=2e-3, rtol=2e-3
        )
        np.testing.assert_allclose(
            made.document_max()[document],
            expected.max(0, initial=0),
            atol=2e-3,
            rtol=2e-3,
        )
    assert made.char_start[:5].tolist() == [0, 1, 2, 4, 5]


def test_only_what_is_above_the_threshold_is_kept():
    low, high = tabulated(), tabulated(threshold=0.5)
    assert len(high.values) < len(low.values)
    assert high.values.min() >= 0.5 and (low.values > 0).all()


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(
        "helpers.language_model.models.load_language_model",
        lambda _: tiny_model(),
    )
    monkeypatch.setattr(
        "helpers.text.tokenizer.load_tokenizer", lambda _: tokenizer()
    )
    split = ["train", "held_out", "held_out", "train"]
    label = ["one"] + ["two"] * (len(TEXTS) - 1)
    frame = pd.DataFrame({"text": TEXTS, "split": split, "label": label})

    def corpus(folder):
        frame.to_parquet(folder / "documents.parquet")

    def empty(folder):
        (folder / "config.json").write_text("{}")

    makers = {"model": empty, "tokenizer": empty, "corpus": corpus}
    return {
        name: artifacts.produce(tmp_path / name, make, parameters={})
        for name, make in makers.items()
    }


def test_make_and_load(inputs):
    path = features.make_features("p", "neurons", "c", **inputs)
    loaded = features.load_features(path)
    assert loaded.documents.tolist() == [1, 2]
    assert isinstance(loaded.values, np.memmap)
    whole = tabulated()
    start, end = whole.offsets[1:3]
    np.testing.assert_allclose(
        loaded.matrix().toarray(), whole.matrix().toarray()[start:end],
        atol=2e-3,
    )  # fmt: skip


def test_at_most_so_many_documents(inputs):
    path = features.make_features(
        "p", "neurons", "c", split="all", most=2, **inputs
    )
    assert features.load_features(path).documents.tolist() == [0, 2]


def test_documents_of_some_labels_alone(inputs):
    path = features.make_features(
        "p", "neurons", "c", split="all", labels=["two"], **inputs
    )
    assert features.load_features(path).documents.tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="no document in split 'all' of sv"):
        features.make_features(
            "p", "neurons", "c", split="all", labels=["sv"], **inputs
        )


def test_an_sae_is_refused_at_another_hook_point(inputs, monkeypatch):
    from helpers.sae import L1SAE

    monkeypatch.setattr(
        "helpers.train.load_sae", lambda _: L1SAE(16, 32, HOOKS[1])
    )
    with pytest.raises(InputError, match="was trained on blocks.0.hook_resid"):
        features.make_features(
            "p", "s", "c", sae=inputs["model"], hook_point=HOOKS[0], **inputs
        )


def test_unknown_split(inputs):
    with pytest.raises(InputError, match="did you mean 'held_out'"):
        features.make_features("p", "s", "c", split="heldout", **inputs)
