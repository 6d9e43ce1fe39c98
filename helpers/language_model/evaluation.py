"""Held-out loss by text class, and on text that is random by construction.

A *predictor* is any function from token rows [batch, pos] to the
cross-entropy of each next token [batch, pos - 1] in nats: a transformer
(``predictor``) and the n-grams (``helpers.ngrams``) are measured alike.
"""

import json
from collections.abc import Callable

import numpy as np
import torch

from helpers.errors import InputError
from helpers.language_model.transformer import token_losses
from helpers.text.tokens import Tokens

BATCH = 64  # rows at a time
RANDOM = "random"  # the factor of spans that are drawn character by character
Predictor = Callable[[np.ndarray], np.ndarray]


def predictor(model) -> Predictor:
    """The predictor of a ``HookedTransformer`` of this project, computed in
    float32 by the fast forward pass, without hooks; of a pretrained model
    (``TransformerBridge``) by its own."""
    from transformer_lens import HookedTransformer

    if not isinstance(model, HookedTransformer):
        return hooked_predictor(model)
    weights = dict(model.named_parameters())

    def predict(rows: np.ndarray) -> np.ndarray:
        tokens = torch.from_numpy(np.asarray(rows).astype(np.int64))
        losses = token_losses(weights, tokens.to(model.cfg.device))
        return losses.cpu().numpy()

    return predict


def losses_by_class(model, tokens: Tokens):
    """Held-out loss of each text class: a frame with one row per class.

    Columns: class, documents, tokens, loss (nats per token, every token of
    a document predicted from those before it, the first from BOS) and
    standard_error (of the loss, over documents: the ratio estimator).
    ``model`` is a HookedTransformer of this project or a predictor.
    """
    import pandas as pd

    predict = predictor(model) if hasattr(model, "cfg") else model
    rows = []
    for name in sorted(tokens.held_out):
        lengths = tokens.lengths[name]
        losses = document_losses(predict, tokens.held_out[name], lengths)
        rows.append({"class": name, **_ratio(losses, lengths - 1)})
    return pd.DataFrame(rows)


def table_of_losses(models: dict, tokens: Tokens):
    """The held-out loss (nats per token) of several models, side by side.

    ``models``: name -> HookedTransformer of this project or predictor.
    Returns a frame with one row per class, one column per model, and the
    tokens and the standard error of the first model.
    """
    import pandas as pd

    tables = {
        name: losses_by_class(model, tokens).set_index("class")
        for name, model in models.items()
    }
    first = next(iter(tables.values()))
    columns = {name: table.loss for name, table in tables.items()}
    facts = first[["tokens", "standard_error"]]
    return pd.DataFrame(columns).join(facts)


def ablation_losses(
    model, rows: np.ndarray, lengths: np.ndarray, hook_point: str
) -> dict[str, float]:
    """What a hook point is worth: loss (nats per token) with its activation
    as it is ("clean"), at its mean over all positions of these rows
    ("mean"), and at zero ("zero").

    rows: [n_docs, context] and lengths (valid tokens of each); memory for
    their activations at the hook point is needed once.
    """
    width = int(lengths.max())
    tokens = torch.from_numpy(rows[:, :width].astype(np.int64))
    tokens = tokens.to(model.cfg.device)
    valid = torch.arange(width)[None] < torch.from_numpy(lengths)[:, None]
    _, cache = model.run_with_cache(
        tokens, return_type=None, names_filter=hook_point
    )
    mean = cache[hook_point][valid.to(model.cfg.device)].mean(0)
    values = {"clean": None, "mean": mean, "zero": torch.zeros_like(mean)}
    found = {}
    for name, value in values.items():
        predict = hooked_predictor(model, hook_point, value)
        losses = document_losses(predict, rows, lengths)
        found[name] = losses.sum() / (lengths - 1).sum()
    return found


def hooked_predictor(model, hook_point: str = "", value=None) -> Predictor:
    """A predictor through the HookedTransformer itself, the activation at
    ``hook_point`` replaced by ``value`` (broadcast), or left as it is.

    It raises InputError for a row that is longer than the model can read.
    """
    config = getattr(getattr(model, "original_model", None), "config", None)
    longest = getattr(config, "max_position_embeddings", model.cfg.n_ctx)

    def replace(activation, hook):
        return activation if value is None else value.expand_as(activation)

    def predict(rows: np.ndarray) -> np.ndarray:
        tokens = torch.from_numpy(np.asarray(rows).astype(np.int64))
        if tokens.shape[1] > longest:
            raise InputError(
                f"a text has {tokens.shape[1]} tokens and the model reads "
                f"{longest} at most; take a model with a longer context"
            )
        with torch.no_grad():
            losses = model.run_with_hooks(
                tokens.to(model.cfg.device),
                return_type="loss",
                loss_per_token=True,
                fwd_hooks=[(hook_point, replace)] if hook_point else [],
            )
        return losses.cpu().numpy()

    return predict


def document_losses(
    predict: Predictor, rows: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The summed loss of each document in nats: float64 [n_docs].

    rows: [n_docs, context], lengths: valid tokens of each row.
    """
    sums = []
    for start in range(0, len(rows), BATCH):
        length = lengths[start : start + BATCH]
        width = max(2, int(length.max()))
        losses = predict(rows[start : start + BATCH, :width])
        valid = np.arange(1, width) < length[:, None]
        sums.append(np.where(valid, losses, 0.0).sum(1, dtype=np.float64))
    return np.concatenate(sums)


def random_span_losses(model, tokens: Tokens, tokenizer):
    """Loss inside spans that are random by construction, per character.

    Such a span has the factor "random" and the size of its alphabet as the
    value, so no model can do better than ln(alphabet) nats a character.
    Counted are the tokens that lie wholly inside a span, with their
    characters; a token across its edge also codes what is outside, so
    both its loss and its characters are left out.

    Returns a frame: class, alphabet, characters, tokens, loss (nats per
    character), entropy (the same), excess (loss / entropy - 1).
    """
    import pandas as pd

    predict = predictor(model) if hasattr(model, "cfg") else model
    frame = tokens.documents
    frame = frame[frame.spans.fillna("").str.contains(f'"{RANDOM}"')]
    parts = [
        _document_spans(predict, tokens, tokenizer, document)
        for document in frame.to_dict("records")
    ]
    columns = ["class", "alphabet", "characters", "tokens", "nats"]
    table = pd.DataFrame([row for p in parts for row in p], columns=columns)
    table = table.groupby(["class", "alphabet"], as_index=False).sum()
    table["loss"] = table.nats / table.characters
    table["entropy"] = np.log(table.alphabet)
    table["excess"] = table.loss / table.entropy - 1
    return table.drop(columns="nats")


def _document_spans(predict, tokens, tokenizer, document: dict) -> list:
    """[class, alphabet, characters, tokens, nats] of each random span."""
    name, row = document["class"], tokens.held_out[document["class"]]
    length = document["length"]
    losses = predict(row[document["row"]][None, :length])[0]
    encoded = tokenizer.encode(document["text"], add_special_tokens=False)
    start, end = np.array(encoded.offsets[: length - 1]).reshape(-1, 2).T
    found = []
    for factor, value, first, last in json.loads(document["spans"]):
        if factor == RANDOM:
            inside = (start >= first) & (end <= last)
            characters = int((end - start)[inside].sum())
            nats = float(losses[inside].sum(dtype=np.float64))
            count = int(inside.sum())
            found.append([name, int(value), characters, count, nats])
    return found


def _ratio(losses: np.ndarray, counts: np.ndarray) -> dict:
    """Loss per token over documents, and its standard error."""
    total, documents = counts.sum(), len(counts)
    mean = losses.sum() / total
    squares = np.square(losses - mean * counts).sum()
    spread = squares * documents / max(documents - 1, 1)
    return {
        "documents": documents,
        "tokens": int(total),
        "loss": mean,
        "standard_error": np.sqrt(spread) / total,
    }
