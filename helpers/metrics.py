"""Quality of a sparse autoencoder, each number under its own definition.

Three questions: what the language model loses when the reconstruction
replaces the activations (the loss-recovered score), how much of the
activations is reconstructed (explained variance), and how sparsely (L0,
density). The beginning-of-sequence token is left out of all of them: it is
never replaced, nor is the loss at its position counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.features import THRESHOLD

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from helpers.sae import SAE

FIRES = THRESHOLD  # a latent fires on a token with more activation than it
MARGIN = 0.05  # nats; with a smaller gap a score means nothing
RUNS = ["clean", "sae", "zero", "mean"]
DOCUMENTS = "documents.parquet"


def loss_recovered(
    clean: float, sae: float, ablated: float, margin: float = MARGIN
) -> float:
    """(L_ablated - L_sae) / (L_ablated - L_clean); losses in nats.

    1 means that nothing is lost, 0 that the SAE does no better than the
    ablation. InputError where the ablation costs less than ``margin``: the
    ratio of two differences about zero looks fine and means nothing.
    """
    if not ablated - clean > margin:
        raise InputError(
            f"no score: ablating costs {ablated - clean:.3f} nats, less than "
            f"the margin of {margin} (losses: clean {clean:.3f}, SAE "
            f"{sae:.3f}, ablated {ablated:.3f})"
        )
    return (ablated - sae) / (ablated - clean)


def explained_variance(
    error: float, square: float, total: np.ndarray, count: int
) -> float:
    """R^2 = 1 - E||x - x_hat||^2 / (E||x||^2 - ||E x||^2).

    Takes sums over ``count`` tokens: of the squared error, of ||x||^2 and
    of x ([d_in], float64). NaN if x does not vary.
    """
    variance = square / count - np.square(total / count).sum()
    return 1 - error / count / variance if variance > 0 else float("nan")


@dataclass
class Codes:
    """Sums over the tokens of some text, all float64; ``+`` pools them."""

    tokens: int
    error: float  # of ||x - x_hat||^2
    square: float  # of ||x||^2
    total: np.ndarray  # [d_in], of x
    firings: np.ndarray  # [d_sae], tokens each latent fires on

    def __add__(self, other: "Codes") -> "Codes":
        return Codes(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(),
                                    strict=True))  # fmt: skip
        )

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a token."""
        return float(self.firings.sum() / self.tokens)

    @property
    def mse(self) -> float:
        """Mean over tokens of ||x - x_hat||^2, summed over dimensions."""
        return self.error / self.tokens

    @property
    def explained_variance(self) -> float:
        """R^2 on these tokens; see ``explained_variance``."""
        return explained_variance(
            self.error, self.square, self.total, self.tokens
        )

    @property
    def density(self) -> np.ndarray:
        """Share of tokens that each latent fires on: [d_sae]."""
        return self.firings / self.tokens

    @property
    def dead(self) -> float:
        """Share of latents that fire on none of these tokens."""
        return float((self.firings == 0).mean())


def code_sums(
    sae: "SAE", x: "torch.Tensor", threshold: float = FIRES
) -> Codes:
    """The sums of ``Codes`` for activations [tokens, d_in]."""
    return _reconstruct(sae, x, threshold)[1]


def document_losses(
    model, hook_point: str, rows: "torch.Tensor", treatments: list
) -> np.ndarray:
    """Next-token loss of documents under each treatment, and tokens.

    ``rows``: [documents, context], BOS first, padded with BOS. A treatment
    maps the text's activations at the hook point [tokens, d_in] to what
    replaces them; None leaves them. Returns [documents, treatments + 1]:
    sums over predicted tokens in nats, and how many tokens were predicted.
    Position 0 (BOS) predicts nothing here.
    """
    from helpers.activations import BOS

    text = rows != BOS
    losses = [
        _token_losses(model, rows, hook_point, text, treat)
        for treat in treatments
    ]
    counted = (text[:, :-1] & text[:, 1:]).double().sum(1)
    return np.stack([part.numpy() for part in [*losses, counted]], axis=1)


def baseline(
    model, hook_point: str, tokens, *, rows_per_pass: int = 32
) -> "pd.DataFrame":
    """Losses of every held-out document without an SAE.

    ``tokens``: what ``helpers.text.load_tokens`` returns. A row a document:
    text_class, document, clean, zero, mean (the activations as they are,
    zeroed, and at their mean over training text; sums over the predicted
    tokens, nats), tokens.
    """
    mean = mean_activation(model, hook_point, tokens.train)
    treatments = [
        None,
        lambda x: x.new_zeros(()).expand_as(x),
        lambda x: mean.to(x).expand_as(x),
    ]

    def measure(name: str, rows: "torch.Tensor") -> np.ndarray:
        return document_losses(model, hook_point, rows, treatments)

    names = ["clean", "zero", "mean", "tokens"]
    return _by_document(tokens, measure, names, rows_per_pass)


def evaluate(
    model, sae: "SAE", tokens, *, rows_per_pass: int = 32
) -> tuple["pd.DataFrame", dict[str, Codes]]:
    """Losses with the reconstruction, and ``Codes`` for each text class.

    The frame has a row a document, in the order of ``baseline``:
    text_class, document, sae (sums over predicted tokens, nats), tokens.
    """
    codes: dict[str, Codes] = {}

    def measure(name: str, rows: "torch.Tensor") -> np.ndarray:
        def treat(x: "torch.Tensor") -> "torch.Tensor":
            rebuilt, sums = _reconstruct(sae, x, FIRES)
            codes[name] = codes[name] + sums if name in codes else sums
            return rebuilt

        return document_losses(model, sae.hook_point, rows, [treat])

    names = ["sae", "tokens"]
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


def losses_by_class(
    documents: "pd.DataFrame", margin: float = MARGIN
) -> "pd.DataFrame":
    """Mean losses a token and scores, a row a text class and pooled rows.

    Index text_class; columns documents, tokens, clean, sae, zero, mean
    (nats a token), score_zero, score_mean, and why where a score is NaN
    because the ablation costs less than ``margin``. Pooled over tokens:
    "natural text", "synthetic text", "all text".
    """
    import pandas as pd

    rows = []
    for name, part in _pooled(documents):
        count = part["tokens"].sum()
        losses = (part[RUNS].sum() / count).to_dict()
        scores, why = {}, ""
        for ablation in ("zero", "mean"):
            try:
                score = loss_recovered(
                    losses["clean"], losses["sae"], losses[ablation], margin
                )
            except InputError as error:
                score, why = float("nan"), str(error)
            scores[f"score_{ablation}"] = score
        rows.append(
            {"text_class": name, "documents": len(part), "tokens": int(count)}
            | losses
            | scores
            | {"why": why}
        )
    return pd.DataFrame(rows).set_index("text_class")


def is_natural(text_class: str) -> bool:
    """Natural classes are "prose" and "code"; synthetic have a slash."""
    return "/" not in text_class


@dataclass
class Quality:
    """What ``make_quality`` measured.

    ``documents`` has a row for each: text_class, document, the RUNS (sums
    over predicted tokens, nats), tokens.
    """

    documents: "pd.DataFrame"
    codes: dict[str, Codes]

    def losses(self, margin: float = MARGIN) -> "pd.DataFrame":
        """Losses and scores by class; see ``losses_by_class``."""
        return losses_by_class(self.documents, margin)

    def pooled(self, natural: bool | None = None) -> Codes:
        """Codes over all text, or natural (True), synthetic (False)."""
        chosen = [
            part
            for name, part in self.codes.items()
            if natural in (None, is_natural(name))
        ]
        return sum(chosen[1:], chosen[0])

    def sparsity(self) -> "pd.DataFrame":
        """tokens, l0, mse, explained_variance and dead by text class."""
        import pandas as pd

        fields = ["tokens", "l0", "mse", "explained_variance", "dead"]
        whole = {**self.codes, "all text": self.pooled()}
        rows = {
            name: [getattr(part, field) for field in fields]
            for name, part in whole.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=fields)
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
        columns = ["text_class", "document", *RUNS, "tokens"]
        known.assign(sae=found["sae"])[columns].to_parquet(folder / DOCUMENTS)
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
        parts = [saved[name] for name in Codes.__dataclass_fields__]
        codes = {
            str(name): Codes(int(n), float(e), float(s), total, firings)
            for name, n, e, s, total, firings in zip(
                saved["text_class"], *parts, strict=True
            )
        }
    return Quality(pd.read_parquet(path / DOCUMENTS), codes)


def _reconstruct(
    sae: "SAE", x: "torch.Tensor", threshold: float
) -> tuple["torch.Tensor", Codes]:
    """x rebuilt [tokens, d_in], and the sums that this took."""
    f = sae.encode(x)
    rebuilt = sae.decode(f, x)
    return rebuilt, Codes(
        len(x),
        (rebuilt - x).double().pow(2).sum().item(),
        x.double().pow(2).sum().item(),
        x.double().sum(0).cpu().numpy(),
        (f > threshold).sum(0).double().cpu().numpy(),
    )


def _by_document(
    tokens, measure, names: list[str], rows_per_pass: int
) -> "pd.DataFrame":
    """text_class, document, and the named columns that ``measure`` gives.

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
            frame.insert(0, "document", range(len(rows)))
            frame.insert(0, "text_class", name)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _token_losses(model, rows, hook_point, text, treat) -> "torch.Tensor":
    """Loss summed over each row's predicted tokens: [documents], nats."""
    import torch

    def replace(value, hook):
        if treat is not None:
            value = value.clone()
            value[text] = treat(value[text])
        return value

    with torch.no_grad():
        logits = model.run_with_hooks(
            rows.to(model.cfg.device), fwd_hooks=[(hook_point, replace)]
        )
    predicted = text[:, :-1] & text[:, 1:]
    losses = torch.zeros(predicted.shape, dtype=torch.float64)
    losses[predicted] = (
        torch.nn.functional.cross_entropy(
            logits[:, :-1][predicted].float(),
            rows[:, 1:][predicted].to(logits.device),
            reduction="none",
        )
        .double()
        .cpu()
    )
    return losses.sum(1)


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


def _pooled(documents) -> list[tuple[str, "pd.DataFrame"]]:
    """Each class, then natural, synthetic and all text, where not empty."""
    parts = list(documents.groupby("text_class", sort=False))
    natural = documents["text_class"].map(is_natural)
    pools = [
        ("natural text", documents[natural]),
        ("synthetic text", documents[~natural]),
        ("all text", documents),
    ]
    return parts + [(name, part) for name, part in pools if len(part)]


def _arrays(codes: dict[str, Codes]) -> dict[str, np.ndarray]:
    """Codes of every class as arrays, a row a class."""
    return {"text_class": np.array(list(codes))} | {
        name: np.stack([getattr(part, name) for part in codes.values()])
        for name in Codes.__dataclass_fields__
    }
