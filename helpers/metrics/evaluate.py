"""Measure an SAE on the held-out text, and keep what was measured.

What needs no SAE (the clean losses and the two ablations) is measured once
for all at a hook point. The beginning-of-sequence token is left out of
everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import artifacts, paths
from helpers.metrics.losses import (
    DIVERGENCES,
    MARGIN,
    RUNS,
    document_effects,
    held_out_groups,
    is_natural,
    losses_by_class,
    score_intervals,
)
from helpers.metrics.sparsity import FIRES, Codes, reconstruct

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from helpers.sae import SAE

DOCUMENTS = "documents.parquet"
_DOCUMENT = [
    "text_class",
    "document",
    "group",
    *RUNS,
    *DIVERGENCES,
    "tokens",
    "uniform",
]
COLUMNS = [
    "tokens",
    "l0",
    "l1",
    "mse",
    "explained_variance",
    "shrinkage",
    "relative_reconstruction_bias",
    "dead",
]


def baseline(
    model, hook_point: str, tokens, *, rows_per_pass: int = 32
) -> "pd.DataFrame":
    """Losses of every held-out document without an SAE.

    ``tokens``: what ``helpers.text.load_tokens`` returns. A row a document:
    text_class, document, group (what belongs together, see
    ``held_out_groups``), clean, zero, mean (losses with the activations as
    they are, zeroed, and at their mean over training text; sums over the
    predicted tokens, nats), kl_zero, kl_mean (the divergences from the clean
    predictions, likewise), tokens, uniform (the loss of a uniform guess).
    """
    mean = mean_activation(model, hook_point, tokens.train)
    treatments = [
        lambda x: x.new_zeros(()).expand_as(x),
        lambda x: mean.to(x).expand_as(x),
    ]

    def measure(name: str, rows: "torch.Tensor") -> np.ndarray:
        return document_effects(model, hook_point, rows, treatments)

    names = ["clean", "zero", "mean", "kl_zero", "kl_mean", "tokens"]
    found = _by_document(tokens, measure, names, rows_per_pass)
    return found.assign(uniform=found["tokens"] * np.log(model.cfg.d_vocab))


def evaluate(
    model, sae: "SAE", tokens, *, rows_per_pass: int = 32
) -> tuple["pd.DataFrame", dict[str, Codes]]:
    """Losses with the reconstruction, and ``Codes`` for each text class.

    The frame has a row a document, in the order of ``baseline``:
    text_class, document, group, clean, sae (losses), kl_sae (sums over
    predicted tokens, nats), tokens.
    """
    codes: dict[str, Codes] = {}

    def measure(name: str, rows: "torch.Tensor") -> np.ndarray:
        def treat(x: "torch.Tensor") -> "torch.Tensor":
            rebuilt, sums = reconstruct(sae, x)
            codes[name] = codes[name] + sums if name in codes else sums
            return rebuilt

        return document_effects(model, sae.hook_point, rows, [treat])

    names = ["clean", "sae", "kl_sae", "tokens"]
    return _by_document(tokens, measure, names, rows_per_pass), codes


def mean_activation(
    model, hook_point: str, stream: np.ndarray, rows: int = 128
) -> "torch.Tensor":
    """Mean activation [d_in] over the first contexts of a token stream."""
    import torch

    from helpers.activations import BOS, contexts, run

    length = model.cfg.n_ctx
    part = contexts(stream[: rows * (length - 1)], length).astype(np.int64)
    ids = torch.from_numpy(part)
    x = run(model, ids, [hook_point])[hook_point][ids != BOS]
    return x.double().mean(0).float()


@dataclass
class Quality:
    """What ``make_quality`` measured.

    ``documents`` has a row for each: text_class, document, group, the RUNS and
    DIVERGENCES (sums over predicted tokens, nats), tokens, uniform.
    """

    documents: "pd.DataFrame"
    codes: dict[str, Codes]

    def losses(self, margin: float = MARGIN) -> "pd.DataFrame":
        """Losses and scores by class; see ``losses_by_class``."""
        return losses_by_class(self.documents, margin)

    def intervals(self, margin: float = MARGIN) -> "pd.DataFrame":
        """Intervals of the scores by class; see ``score_intervals``."""
        return score_intervals(self.documents, margin)

    def pooled(self, natural: bool | None = None) -> Codes:
        """Codes over all text, or natural (True), synthetic (False)."""
        chosen = [
            part
            for name, part in self.codes.items()
            if natural in (None, is_natural(name))
        ]
        return sum(chosen[1:], chosen[0])

    def sparsity(self) -> "pd.DataFrame":
        """tokens and the COLUMNS by text class, and over all text."""
        import pandas as pd

        whole = {**self.codes, "all text": self.pooled()}
        rows = {
            name: [getattr(part, column) for column in COLUMNS]
            for name, part in whole.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
        return frame.rename_axis("text_class")


def make_baseline(
    profile: str, hook_point: str, model: Path, tokens: Path
) -> Path:
    """Measure a model without any SAE, once for all at a hook point."""

    def make(folder: Path) -> None:
        from helpers.language_model.models import load_language_model
        from helpers.text.tokens import load_tokens

        found = baseline(
            load_language_model(model), hook_point, load_tokens(tokens)
        )
        found.to_parquet(folder / DOCUMENTS)

    return artifacts.produce(
        paths.quality(profile, f"without-{hook_point}"),
        make,
        parameters={"hook_point": hook_point},
        inputs=[model, tokens],
    )


def make_quality(
    profile: str, name: str, sae: Path, model: Path, tokens: Path
) -> Path:
    """Measure an SAE (artifacts of it, its model, the tokens)."""
    from helpers.train import load_sae

    loaded = load_sae(sae)
    without = make_baseline(profile, loaded.hook_point, model, tokens)

    def make(folder: Path) -> None:
        import pandas as pd

        from helpers.language_model.models import load_language_model
        from helpers.text.tokens import load_tokens

        found, codes = evaluate(
            load_language_model(model), loaded, load_tokens(tokens)
        )
        known = pd.read_parquet(without / DOCUMENTS)
        whole = known.assign(sae=found["sae"], kl_sae=found["kl_sae"])
        whole[_DOCUMENT].to_parquet(folder / DOCUMENTS)
        np.savez(folder / "codes.npz", **_arrays(codes))

    return artifacts.produce(
        paths.quality(profile, name),
        make,
        parameters={"fires": FIRES},
        inputs=[sae, model, tokens, without],
    )


def load_quality(path: Path) -> Quality:
    """Read what ``make_quality`` measured."""
    import pandas as pd

    path = artifacts.require(path)
    with np.load(path / "codes.npz") as saved:
        columns = {name: saved[name] for name in _names()}
        codes = {
            str(name): Codes(**{k: v[i] for k, v in columns.items()})
            for i, name in enumerate(saved["text_class"])
        }
    return Quality(pd.read_parquet(path / DOCUMENTS), codes)


def _by_document(
    tokens, measure, names: list[str], rows_per_pass: int
) -> "pd.DataFrame":
    """text_class, document, group and the columns that ``measure`` gives.

    ``measure(text_class, rows)``: [documents, context] -> [documents, n].
    """
    import pandas as pd

    from helpers.progress import track

    frames = []
    total = sum(len(rows) for rows in tokens.held_out.values())
    with track("measuring", total) as bar:
        for name, rows in tokens.held_out.items():
            found = np.zeros((len(rows), len(names)))
            lengths = tokens.lengths[name]
            for index, part in _by_length(rows, lengths, rows_per_pass):
                found[index] = measure(name, part)
                bar.update(len(part))
            frame = pd.DataFrame(found, columns=names)
            frame.insert(0, "group", held_out_groups(tokens, name))
            frame.insert(0, "document", range(len(rows)))
            frame.insert(0, "text_class", name)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _by_length(
    rows: np.ndarray, lengths: np.ndarray, count: int
) -> Iterator[tuple[np.ndarray, "torch.Tensor"]]:
    """Rows of about the same length together, cut to the longest."""
    import torch

    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(rows), count):
        index = order[start : start + count]
        part = rows[index, : max(lengths[index].max(), 2)]
        yield index, torch.from_numpy(part.astype(np.int64))


def _names() -> list[str]:
    """The sums of ``Codes``, by name."""
    return [field.name for field in fields(Codes)]


def _arrays(codes: dict[str, Codes]) -> dict[str, np.ndarray]:
    """Codes of every class as arrays, a row a class."""
    return {"text_class": np.array(list(codes))} | {
        name: np.stack([getattr(part, name) for part in codes.values()])
        for name in _names()
    }
