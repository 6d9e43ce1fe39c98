"""What the language model loses with a reconstruction in its place.

Losses and divergences are kept as sums over each document's predicted
tokens, in nats. The beginning-of-sequence token is left out: it is never
replaced, nor is what it predicts counted.
"""

from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import InputError
from helpers.metrics.intervals import bootstrap

if TYPE_CHECKING:
    import pandas as pd
    import torch

MARGIN = 0.05  # nats; with a smaller gap a score means nothing
RUNS = ["clean", "sae", "zero", "mean"]
DIVERGENCES = ["kl_sae", "kl_zero", "kl_mean"]  # from the clean predictions
ABLATIONS = ("zero", "mean")
BLOCK = 128  # positions whose divergence is computed at a time
SCORES = ["score_zero", "score_mean", "score_kl"]


def loss_recovered(
    clean: float,
    sae: float,
    ablated: float,
    margin: float = MARGIN,
    uniform: float = float("inf"),
) -> float:
    """(L_ablated - L_sae) / (L_ablated - L_clean); losses in nats.

    1 means that nothing is lost, 0 that the SAE does no better than the
    ablation. InputError where the ablation costs less than ``margin``: the
    ratio of two differences about zero looks fine and means nothing. And
    where the clean loss is not below ``uniform``, that of a uniform guess
    (ln of the vocabulary): there is nothing to lose then.
    """
    if not clean < uniform:
        raise InputError(
            f"no score: the model predicts no better than a uniform guess, "
            f"{uniform:.3f} nats (losses: clean {clean:.3f}, SAE {sae:.3f}, "
            f"ablated {ablated:.3f})"
        )
    if not ablated - clean > margin:
        raise InputError(
            f"no score: ablating costs {ablated - clean:.3f} nats, less than "
            f"the margin of {margin} (losses: clean {clean:.3f}, SAE "
            f"{sae:.3f}, ablated {ablated:.3f})"
        )
    return (ablated - sae) / (ablated - clean)


def kl_score(sae: float, ablated: float, margin: float = MARGIN) -> float:
    """(KL_ablated - KL_sae) / KL_ablated, each KL(clean || changed), nats.

    SAELens' ``kl_div_score``: all of the predictions are compared, not what
    they give to the next token alone. InputError where the ablation moves
    them by less than ``margin``.
    """
    if not ablated > margin:
        raise InputError(
            f"no score: ablating moves the predictions by {ablated:.3f} "
            f"nats, less than the margin of {margin} (with the SAE: "
            f"{sae:.3f})"
        )
    return (ablated - sae) / ablated


def score_per_batch(
    documents: "pd.DataFrame",
    ablation: str = "zero",
    *,
    size: int = 32,
    margin: float = MARGIN,
) -> float:
    """Mean over batches of ``loss_recovered`` on each: a mean of ratios.

    ``documents``: as for ``losses_by_class``, ``size`` of them a batch, in
    their order. What dictionary_learning does; it depends on the batches,
    and a batch whose ablation happens to cost little can decide it (one
    that costs less than ``margin`` is an InputError).
    """
    if size < 1:
        raise InputError(f"a batch has 1 document or more, not {size}")
    batch = np.arange(len(documents)) // size
    columns = ["clean", "sae", ablation, "tokens"]
    sums = documents[columns].groupby(batch).sum()
    losses = sums[columns[:3]].div(sums["tokens"], axis=0).to_numpy()
    return float(np.mean([loss_recovered(*row, margin) for row in losses]))


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
    losses = [
        _losses(_logits(model, hook_point, rows, treat), rows)
        for treat in treatments
    ]
    return _by_row([*losses, 1.0], rows)


def document_effects(
    model, hook_point: str, rows: "torch.Tensor", treatments: list
) -> np.ndarray:
    """Losses and divergences of documents under each treatment.

    As ``document_losses``, but [documents, 2 * treatments + 2]: the clean
    loss, that under each treatment, KL(clean || treated) under each, and
    tokens. The divergence is counted at the positions that predict a
    token.
    """
    clean = _logits(model, hook_point, rows, None)
    losses, divergences = [_losses(clean, rows)], []
    for treat in treatments:
        treated = _logits(model, hook_point, rows, treat)
        losses.append(_losses(treated, rows))
        divergences.append(_divergence(clean, treated))
    return _by_row([*losses, *divergences, 1.0], rows)


def losses_by_class(
    documents: "pd.DataFrame", margin: float = MARGIN
) -> "pd.DataFrame":
    """Mean losses a token and scores, a row a text class and pooled rows.

    Index text_class; columns documents, tokens, clean, sae, zero, mean,
    kl_sae, kl_zero, kl_mean, uniform (nats a token), score_zero,
    score_mean, score_kl (against zeros), and why where one of the first two
    is NaN because ``loss_recovered`` refuses. Pooled over tokens: "natural
    text", "synthetic text", "all text".
    """
    import pandas as pd

    rows = []
    for name, part in _pooled(documents):
        count = part["tokens"].sum()
        columns = [*RUNS, *DIVERGENCES, "uniform"]
        means = (part[columns].sum() / count).to_dict()
        size = {"documents": len(part), "tokens": int(count)}
        scores = _scores(means, margin)
        rows.append({"text_class": name} | size | means | scores)
    return pd.DataFrame(rows).set_index("text_class")


def score_intervals(
    documents: "pd.DataFrame",
    margin: float = MARGIN,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> "pd.DataFrame":
    """Bootstrap intervals for the scores of ``losses_by_class``.

    ``documents`` has a column group besides: those of one source or matched
    set share it, and are drawn together. Index text_class; for each of the
    SCORES, columns NAME_low and NAME_high (BCa over groups); NaN where there
    is no score, or one group.
    """
    import pandas as pd

    known, rows = losses_by_class(documents, margin), {}
    for name, part in _pooled(documents):
        rows[name] = dict.fromkeys(_bounds(), np.nan)
        if part["group"].nunique() > 1:
            found = bootstrap(
                part[RUNS + DIVERGENCES], _ratios,
                groups=part["group"], level=level, seed=seed,
            )  # fmt: skip
            ends = np.stack([found.low, found.high], axis=1)
            ends[known.loc[name, SCORES].isna().to_numpy(bool)] = np.nan
            rows[name] = dict(zip(_bounds(), ends.ravel(), strict=True))
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.rename_axis("text_class")


def held_out_groups(tokens, text_class: str) -> np.ndarray:
    """What each held-out document of a class belongs with: [documents].

    "CORPUS/number" of its matched set, or of the source (a module, a file)
    that a natural document is a piece of. ``tokens``: what
    ``helpers.text.load_tokens`` returns.
    """
    rows = tokens.documents
    rows = rows[rows["class"] == text_class].sort_values("row")
    return (rows["corpus"] + "/" + rows["group"].astype(str)).to_numpy(str)


def is_natural(text_class: str) -> bool:
    """Natural classes are "prose" and "code"; synthetic have a slash."""
    return "/" not in text_class


def _bounds() -> list[str]:
    return [f"{name}_{end}" for name in SCORES for end in ("low", "high")]


def _ratios(sums: np.ndarray) -> np.ndarray:
    """The SCORES from sums of RUNS and DIVERGENCES: [..., 3]."""
    clean, sae, zero, mean, kl_sae, kl_zero, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = [
            (zero - sae) / (zero - clean),
            (mean - sae) / (mean - clean),
            (kl_zero - kl_sae) / kl_zero,
        ]
    return np.stack(scores, axis=-1)


def _scores(means: dict, margin: float) -> dict:
    """The SCORES from means a token, NaN where refused, and why."""
    scores, why = {}, ""
    for ablation in ABLATIONS:
        losses = means["clean"], means["sae"], means[ablation]
        try:
            score = loss_recovered(*losses, margin, means["uniform"])
        except InputError as error:
            score, why = float("nan"), str(error)
        scores[f"score_{ablation}"] = score
    try:
        divergence = kl_score(means["kl_sae"], means["kl_zero"], margin)
    except InputError:
        divergence = float("nan")
    return scores | {"score_kl": divergence, "why": why}


def _predicting(rows: "torch.Tensor") -> "torch.Tensor":
    """Positions of text that predict text: [documents, context - 1] bool."""
    from helpers.activations import BOS

    text = rows != BOS
    return text[:, :-1] & text[:, 1:]


def _logits(model, hook_point: str, rows, treat) -> "torch.Tensor":
    """Logits at the predicting positions, under a treatment or None."""
    import torch

    from helpers.activations import BOS

    text = rows != BOS

    def replace(value, hook):
        if treat is not None:
            value = value.clone()
            value[text] = treat(value[text])
        return value

    with torch.no_grad():
        logits = model.run_with_hooks(
            rows.to(model.cfg.device), fwd_hooks=[(hook_point, replace)]
        )
    return logits[:, :-1][_predicting(rows)].float()


def _losses(logits, rows) -> "torch.Tensor":
    """Cross-entropy at each predicting position: [predicted], nats."""
    from torch.nn.functional import cross_entropy

    following = rows[:, 1:][_predicting(rows)].to(logits.device)
    return cross_entropy(logits, following, reduction="none")


def _divergence(clean, treated) -> "torch.Tensor":
    """KL(clean || treated) at each predicting position, nats."""
    import torch

    parts = []  # a few positions at a time, which stay in the cache
    for p, q in zip(clean.split(BLOCK), treated.split(BLOCK), strict=True):
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(parts)


def _by_row(values: list, rows) -> np.ndarray:
    """Values at the predicting positions, summed by row: [rows, values]."""
    import torch

    predicting = _predicting(rows)
    spread = torch.zeros(predicting.shape, dtype=torch.float64)
    sums = []
    for value in values:
        if not isinstance(value, float):
            value = value.double().cpu()
        spread[predicting] = value
        sums.append(spread.sum(1).numpy())
    return np.stack(sums, axis=1)


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
