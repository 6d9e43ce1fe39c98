"""The feature table: sparse activations of one SAE on one corpus.

A row for each token of each document, stored as a compressed sparse row
matrix beside the documents' and the tokens' places, memory-mapped when it
is read: later chapters share one table, and read only what they ask for.
The same table can be made for the neurons themselves.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import artifacts, paths
from helpers.errors import InputError, unknown

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse
    import torch

NEURONS = "neurons"  # the name that stands for "no SAE"
THRESHOLD = 1e-3  # activations up to this are not stored: they do not fire
META = "table.json"
ARRAYS = {
    "values": np.float16,
    "indices": np.int32,
    "indptr": np.int64,
    "token_ids": None,  # 16 bits, or 32 for a large vocabulary
    "documents": np.int64,
    "offsets": np.int64,
    "char_start": np.int32,
    "char_end": np.int32,
}


class Neurons:
    """An "SAE" that is the identity: its features are the neurons."""

    def __init__(self, d_in: int, hook_point: str):
        self.d_in = self.d_sae = d_in
        self.hook_point = hook_point

    def encode(self, x: "torch.Tensor") -> "torch.Tensor":
        """The activations themselves: [batch, d_in]."""
        return x

    def decode(self, f: "torch.Tensor", x=None) -> "torch.Tensor":
        """The codes themselves: [batch, d_in]."""
        return f

    __call__ = encode


class Directions:
    """An "SAE" whose features are given directions of a hook point.

    ``vectors`` [d_in, n] are scaled to unit length. A direction has two
    ends and a table keeps what is positive, so each is two features: x
    along it is feature i, x against it feature n + i, both measured from
    ``centre`` [d_in].
    """

    def __init__(
        self, vectors: np.ndarray, hook_point: str, centre: np.ndarray
    ):
        import torch

        vectors = np.asarray(vectors, np.float32)
        lengths = np.linalg.norm(vectors, axis=0)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise InputError("a direction has no length; leave it out")
        self.d_in, self.d_sae = len(vectors), 2 * vectors.shape[1]
        self.hook_point = hook_point
        self.vectors = torch.from_numpy(vectors / lengths)
        self.centre = torch.from_numpy(np.asarray(centre, np.float32))

    def encode(self, x: "torch.Tensor") -> "torch.Tensor":
        """Length along and against each: [batch, d_in] -> [batch, 2 n]."""
        import torch

        away = x.float() - self.centre.to(x.device)
        along = away @ self.vectors.to(x.device)
        return torch.relu(torch.cat([along, -along], dim=-1))

    @property
    def identity(self) -> str:
        """A hash of the directions, for the record of what was made."""
        parts = self.vectors.numpy(), self.centre.numpy()
        return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()


def random_directions(
    x: np.ndarray, n: int, hook_point: str, seed: int = 0
) -> Directions:
    """``n`` directions drawn evenly from the sphere, from the mean of x.

    ``x`` [batch, d_in]: activations of the hook point.
    """
    drawn = np.random.default_rng(seed).standard_normal((x.shape[1], n))
    return Directions(drawn, hook_point, x.mean(0))


def principal_directions(x: np.ndarray, hook_point: str) -> Directions:
    """All principal components of activations ``x`` [batch, d_in]."""
    from sklearn.decomposition import PCA

    found = PCA(svd_solver="full").fit(x)
    return Directions(found.components_.T, hook_point, found.mean_)


@dataclass(frozen=True)
class FeatureTable:
    """Sparse activations on a corpus: row = token, column = feature.

    Token t has features ``indices[indptr[t]:indptr[t+1]]`` with those
    ``values``; document d's tokens are ``offsets[d]:offsets[d+1]``, and it
    is row ``documents[d]`` of the corpus' frame (by position, for
    ``frame.iloc``). ``char_start`` and ``char_end`` place each token in the
    document's text. The BOS token is not in the table; documents are cut at
    the model's context.
    """

    d_sae: int
    threshold: float
    values: np.ndarray  # [stored]
    indices: np.ndarray  # [stored]
    indptr: np.ndarray  # [tokens + 1]
    token_ids: np.ndarray  # [tokens]
    documents: np.ndarray  # [documents]
    offsets: np.ndarray  # [documents + 1]
    char_start: np.ndarray  # [tokens]
    char_end: np.ndarray  # [tokens]

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def n_documents(self) -> int:
        return len(self.documents)

    @cached_property
    def document_of(self) -> np.ndarray:
        """The document (0, 1, ...) of each token: [tokens]."""
        return np.repeat(np.arange(self.n_documents), np.diff(self.offsets))

    @cached_property
    def token_of(self) -> np.ndarray:
        """The token of each stored value: [stored]."""
        return np.repeat(np.arange(self.n_tokens), np.diff(self.indptr))

    def matrix(self) -> "scipy.sparse.csr_array":
        """All of it as a sparse float32 array: [tokens, d_sae]."""
        import scipy.sparse

        parts = self.values.astype(np.float32), self.indices, self.indptr
        shape = (self.n_tokens, self.d_sae)
        return scipy.sparse.csr_array(parts, shape=shape)

    def document_max(self) -> np.ndarray:
        """Each feature's largest activation: [documents, d_sae] float32.

        Zero where it is never above the threshold. Its mean over the
        documents of a class is the poster's "activation for a class".
        """
        largest = np.zeros(self.n_documents * self.d_sae, dtype=np.float32)
        cells = self.document_of[self.token_of] * self.d_sae + self.indices
        np.maximum.at(largest, cells, self.values.astype(np.float32))
        return largest.reshape(self.n_documents, self.d_sae)

    def density(self) -> np.ndarray:
        """Share of tokens on which each feature fires: [d_sae]."""
        counts = np.bincount(self.indices, minlength=self.d_sae)
        return counts / max(self.n_tokens, 1)

    def feature(self, feature: int) -> np.ndarray:
        """One feature's activation on every token: [tokens] float32."""
        self._check(feature)
        places = np.flatnonzero(self.indices == feature)
        column = np.zeros(self.n_tokens, dtype=np.float32)
        column[self.token_of[places]] = self.values[places]
        return column

    def document(self, document: int, feature: int) -> np.ndarray:
        """One feature's activations on one document's tokens, float32."""
        start, end = self.offsets[document : document + 2]
        return self.feature(feature)[start:end]

    def top_tokens(
        self, feature: int, n: int = 10, *, window: int = 8, tokenizer=None
    ) -> "pd.DataFrame":
        """The n tokens on which a feature is most active, in context.

        Columns activation, document, position (in the document), token_id,
        before, after (token ids, at most ``window`` on either side). With a
        tokenizer, token, before and after are text instead of ids. Equal
        activations come in the order of the corpus.
        """
        import pandas as pd

        column = self.feature(feature)
        order = np.argsort(-column, kind="stable")[:n]
        rows = [
            self._context(int(token), float(column[token]), window)
            for token in order
            if column[token] > 0
        ]
        frame = pd.DataFrame(rows, columns=CONTEXT)
        if tokenizer is not None:
            for name in ("before", "after"):
                frame[name] = [tokenizer.decode(ids) for ids in frame[name]]
            frame.insert(
                3, "token", [tokenizer.decode([i]) for i in frame["token_id"]]
            )
        return frame

    def _context(self, token: int, activation: float, window: int) -> dict:
        document = int(self.document_of[token])
        start, end = (int(i) for i in self.offsets[document : document + 2])
        ids = [int(i) for i in self.token_ids[start:end]]
        at = token - start
        values = (
            activation,
            document,
            at,
            ids[at],
            ids[max(at - window, 0) : at],
            ids[at + 1 : at + 1 + window],
        )
        return dict(zip(CONTEXT, values, strict=True))

    def _check(self, feature: int) -> None:
        if not 0 <= feature < self.d_sae:
            raise InputError(
                f"there is no feature {feature}; this table has features 0 "
                f"to {self.d_sae - 1}"
            )


CONTEXT = ["activation", "document", "position", "token_id", "before", "after"]


def tabulate(
    model,
    coder,
    tokenizer,
    texts: list[str],
    documents: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    rows_per_pass: int = 64,
) -> FeatureTable:
    """The feature table of some texts, one document a row after BOS.

    ``coder`` is an SAE or ``Neurons``; ``documents`` numbers the texts in
    their frame. Documents longer than the model's context are cut.
    """
    from helpers.progress import track

    length = model.cfg.n_ctx - 1
    encodings = tokenizer.encode_batch(list(texts))
    ids = [encoding.ids[:length] for encoding in encodings]
    places = [encoding.offsets[:length] for encoding in encodings]
    stored: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with track("feature table", len(ids)) as bar:
        for start in range(0, len(ids), rows_per_pass):
            part = ids[start : start + rows_per_pass]
            stored.append(_sparse(_encode(model, coder, part), threshold))
            bar.update(len(part))
    values, indices, counts = (
        np.concatenate(parts) for parts in zip(*stored, strict=True)
    )
    place = np.array([p for row in places for p in row]).reshape(-1, 2)
    return FeatureTable(
        coder.d_sae,
        threshold,
        values,
        indices,
        _starts(counts),
        _numbers([i for row in ids for i in row]),
        np.asarray(documents, dtype=np.int64),
        _starts([len(row) for row in ids]),
        place[:, 0].astype(np.int32),
        place[:, 1].astype(np.int32),
    )


def make_features(
    profile: str,
    sae_name: str,
    corpus_name: str,
    *,
    model: Path,
    tokenizer: Path,
    corpus: Path,
    sae: Path | None = None,
    directions: Directions | None = None,
    hook_point: str | None = None,
    split: str = "held_out",
    labels: Sequence[str] | None = None,
    most: int | None = None,
    threshold: float = THRESHOLD,
) -> Path:
    """Make the feature table of an SAE on a corpus (all artifacts).

    Without ``sae`` the features are the neurons at ``hook_point``, by
    default where the chapters look into the model; with it, ``hook_point``
    must be the one it was trained on (InputError if not).
    ``directions`` take the place of an SAE; give one of the two at most.
    ``split``: "held_out", "train" or "all", of ``labels`` alone if they are
    given; of longer ones, ``most`` documents evenly spread over the corpus.
    """
    if split not in ("held_out", "train", "all"):
        raise unknown("split", split, ["held_out", "train", "all"])
    if sae and directions:
        raise InputError("give an SAE or directions, not both")
    hook_point = _hook_point(model, directions, hook_point)

    def make(folder: Path) -> None:
        network, encoder = _open(model, tokenizer)
        texts, documents = _documents(corpus, split, labels, most)
        coder = directions or _coder(network, sae, hook_point)
        table = tabulate(
            network,
            coder,
            encoder,
            texts,
            documents,
            threshold=threshold,
        )
        save(table, folder)

    return artifacts.produce(
        paths.feature_table(profile, sae_name, corpus_name),
        make,
        parameters={
            "hook_point": hook_point,
            "directions": directions and directions.identity,
            "split": split,
            "labels": labels and list(labels),
            "most": most,
            "threshold": threshold,
        },
        inputs=[path for path in (sae, model, tokenizer, corpus) if path],
    )


def load_features(path: Path) -> FeatureTable:
    """Open a table made by ``make_features``, memory-mapped."""
    path = artifacts.require(path)
    meta = json.loads((path / META).read_text())
    arrays = {
        name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ARRAYS
    }
    return FeatureTable(meta["d_sae"], meta["threshold"], **arrays)


def save(table: FeatureTable, folder: Path) -> None:
    """Write a table: one ``.npy`` an array and ``table.json``."""
    for name, dtype in ARRAYS.items():
        np.save(folder / f"{name}.npy", np.asarray(getattr(table, name), dtype))
    meta = {"d_sae": table.d_sae, "threshold": table.threshold}
    (folder / META).write_text(json.dumps(meta, sort_keys=True) + "\n")


def _documents(
    corpus: Path, split: str, labels: Sequence[str] | None, most: int | None
) -> tuple[list[str], np.ndarray]:
    """The texts of a split (and labels), their places in the frame."""
    import pandas as pd

    file = artifacts.require(corpus) / "documents.parquet"
    columns = ["text", "split"] + (["label"] if labels else [])
    frame = pd.read_parquet(file, columns=columns)
    chosen = np.ones(len(frame), dtype=bool)
    if split != "all":
        chosen = (frame["split"] == split).to_numpy()
    if labels:
        chosen = chosen & frame["label"].isin(labels).to_numpy()
    if not chosen.any():
        of = f" of {', '.join(labels)}" if labels else ""
        raise InputError(
            f"{artifacts.show(corpus)} has no document in split {split!r}"
            f"{of}; give it more documents or choose another split"
        )
    places = np.flatnonzero(chosen)
    if most is not None and most < len(places):
        places = places[np.arange(most) * len(places) // most]
    return frame["text"].iloc[places].tolist(), places


def _hook_point(model: Path, directions, given: str | None) -> str:
    """Where to read: the directions' place, the one that was given, or
    where the chapters look into the model."""
    from helpers.language_model import models

    if directions:
        return directions.hook_point
    return given or models.hook_point(model)


def _open(model: Path, tokenizer: Path) -> tuple:
    """The language model and its tokenizer (InputError if not its own)."""
    from helpers.language_model.models import load_language_model
    from helpers.pretrained.vocabulary import check_tokenizer
    from helpers.text.tokenizer import load_tokenizer

    encoder = load_tokenizer(tokenizer)
    check_tokenizer(model, encoder)
    return load_language_model(model), encoder


def _coder(model, sae: Path | None, hook_point: str):
    from helpers.activations import width
    from helpers.train import load_sae

    if sae is None:
        return Neurons(width(model, hook_point), hook_point)
    loaded = load_sae(sae)
    loaded.check_hook_point(hook_point)
    return loaded


def _encode(model, coder, ids: list[list[int]]) -> "torch.Tensor":
    """Codes of the documents' tokens: [tokens, d_sae]."""
    import torch

    from helpers.activations import BOS, run

    width = 1 + max(map(len, ids), default=0)
    rows = torch.full((len(ids), width), BOS)
    text = torch.zeros(rows.shape, dtype=torch.bool)
    for row, document in enumerate(ids):
        rows[row, 1 : 1 + len(document)] = torch.tensor(document)
        text[row, 1 : 1 + len(document)] = True
    x = run(model, rows, [coder.hook_point])[coder.hook_point]
    with torch.no_grad():
        return coder.encode(x[text.to(x.device)])


def _sparse(codes: "torch.Tensor", threshold: float):
    """Values above the threshold, their features, how many a token."""
    fires = codes > threshold
    tokens, features = fires.nonzero(as_tuple=True)
    values = codes[tokens, features].half().cpu().numpy()
    counts = fires.sum(1).cpu().numpy()
    return values, features.int().cpu().numpy(), counts


def _numbers(ids: list[int]) -> np.ndarray:
    """Token numbers in the smallest type that holds them."""
    large = max(ids, default=0) >= 2**16
    return np.array(ids, dtype=np.uint32 if large else np.uint16)


def _starts(counts) -> np.ndarray:
    """Where each run of ``counts`` begins, and the end: [n + 1] int64."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
