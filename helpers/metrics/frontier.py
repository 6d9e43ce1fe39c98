"""Many SAEs on one sample of text: sparsity against fidelity.

``make_sweep`` measures any number of SAEs on the same few hundred held-out
natural documents, where ``make_quality`` takes all text for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers import artifacts, paths
from helpers.errors import InputError, unknown
from helpers.metrics.evaluate import mean_activation
from helpers.metrics.intervals import Interval, bootstrap
from helpers.metrics.losses import (
    MARGIN,
    RUNS,
    document_losses,
    held_out_groups,
    is_natural,
    loss_recovered,
)
from helpers.metrics.sparsity import FIRES

if TYPE_CHECKING:
    import torch

    from helpers.sae import SAE

DOCUMENTS, FIRINGS = "documents.parquet", "firings.npz"
MEASURES = ("score_zero", "score_mean", "fvu")
DIFFERENCES = {"sae": "predicted", "fvu": "spread"}  # over what
ROWS = 25  # documents in a pass


@dataclass
class Sweep:
    """What ``make_sweep`` measured.

    ``documents``: a row an SAE and document: name (the SAE's), text_class,
    document, group (what belongs together, see ``held_out_groups``);
    counts tokens and predicted (tokens that are predicted); and sums over
    them: the RUNS and uniform (losses, nats), error
    (||x - x_hat||^2), spread (||x - E x||^2, E over all documents) and fired
    (latents above FIRES). ``firings``: name -> [d_sae], tokens on which each
    latent fires.
    """

    documents: pd.DataFrame
    firings: dict[str, np.ndarray]

    def table(self, margin: float = MARGIN, seed: int = 0) -> pd.DataFrame:
        """A row an SAE: its scores with intervals, and what they hang on.

        Index name; columns documents, groups, tokens, latents, live (fire
        at all), l0, the RUNS (nats a token), and the MEASURES, each with
        NAME_low and NAME_high (95%, BCa over groups); why where
        ``loss_recovered`` refuses, and the score is NaN.
        """
        rows = {
            name: self._row(name, part, margin, seed)
            for name, part in self.documents.groupby("name", sort=False)
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")

    def density(self, name: str) -> np.ndarray:
        """Share of the tokens on which each latent of an SAE fires."""
        rows = self.documents[self.documents["name"] == name]
        return self.firings[name] / rows["tokens"].sum()

    def difference(
        self, one: str, other: str, measure: str = "sae", seed: int = 0
    ) -> Interval:
        """How much more ``one`` has than ``other``, on the same documents.

        ``measure``: "sae" (its loss, nats a token) or "fvu". A paired
        bootstrap over groups. InputError for another SAE or measure.
        """
        if measure not in DIFFERENCES:
            raise unknown("measure", measure, DIFFERENCES)
        by = self.documents.set_index("name")
        for name in (one, other):
            if name not in self.firings:
                raise unknown("SAE of the sweep", name, self.firings)
        top, base = "error" if measure == "fvu" else "sae", DIFFERENCES[measure]
        columns = [by.loc[one, top], by.loc[other, top], by.loc[one, base]]
        sums = np.stack([c.to_numpy() for c in columns], axis=1)
        return bootstrap(
            sums, lambda s: (s[..., 0] - s[..., 1]) / s[..., 2],
            groups=by.loc[one, "group"], seed=seed,
        )  # fmt: skip

    def steps(self, names: Sequence[str], seed: int = 0) -> pd.DataFrame:
        """How the loss changes from each SAE of a row to the next.

        Columns from, to, change, low, high (``difference``, nats a token).
        """
        rows = [
            (one, other, *self.difference(other, one, seed=seed))
            for one, other in zip(names, names[1:], strict=False)
        ]
        columns = ["from", "to", "change", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def _row(self, name: str, part, margin: float, seed: int) -> dict:
        fires, sums = self.firings[name], part.sum(numeric_only=True)
        row = {
            "documents": len(part),
            "groups": part["group"].nunique(),
            "tokens": int(sums["tokens"]),
            "latents": len(fires),
            "live": int((fires > 0).sum()),
            "l0": sums["fired"] / sums["tokens"],
        }
        means = (sums[[*RUNS, "uniform"]] / sums["predicted"]).to_dict()
        found = bootstrap(
            part[[*RUNS, "error", "spread"]], _measures,
            groups=part["group"], seed=seed,
        )  # fmt: skip
        scores, why = {}, []
        for place, measure in enumerate(MEASURES):
            values = np.array([end[place] for end in found])
            if said := _refusal(means, measure, margin):
                values[:], why = np.nan, [*why, said]
            ends = (measure, f"{measure}_low", f"{measure}_high")
            scores |= dict(zip(ends, values, strict=True))
        return row | means | scores | {"why": "; ".join(why[:1])}


def _measures(sums: np.ndarray) -> np.ndarray:
    """The MEASURES from sums of RUNS, error and spread: [..., 3]."""
    clean, sae, zero, mean, error, spread = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            (zero - sae) / (zero - clean),
            (mean - sae) / (mean - clean),
            error / spread,
        ]
    return np.stack(parts, axis=-1)


def _refusal(means: dict, measure: str, margin: float) -> str:
    """Why ``loss_recovered`` gives no such score, or nothing."""
    if measure == "fvu":
        return ""
    ablated = means[measure.removeprefix("score_")]
    losses = means["clean"], means["sae"], ablated
    try:
        loss_recovered(*losses, margin, means["uniform"])
    except InputError as error:
        return str(error)
    return ""


def make_sweep(
    profile: str,
    name: str,
    saes: Mapping[str, Path],
    model: Path,
    tokens: Path,
    *,
    documents: int = 200,
) -> Path:
    """Measure SAEs (all artifacts) on a sample of held-out natural text.

    ``saes``: what each is called -> its artifact. ``documents``: how many,
    evenly from all classes of natural text. Raises InputError for SAEs of
    different hook points.
    """

    def make(folder: Path) -> None:
        from helpers import sae
        from helpers.language_model.models import load_language_model
        from helpers.text.tokens import load_tokens

        loaded = {
            label: sae.load(artifacts.require(path))
            for label, path in saes.items()
        }
        found = measure(
            load_language_model(model), loaded, load_tokens(tokens), documents
        )
        found.documents.to_parquet(folder / DOCUMENTS)
        np.savez(folder / FIRINGS, **found.firings)

    return artifacts.produce(
        paths.quality(profile, name),
        make,
        parameters={"documents": documents, "saes": list(saes)},
        inputs=[model, tokens, *saes.values()],
    )


def load_sweep(path: Path) -> Sweep:
    """Read what ``make_sweep`` measured."""
    path = artifacts.require(path)
    with np.load(path / FIRINGS) as saved:
        firings = {name: saved[name] for name in saved.files}
    return Sweep(pd.read_parquet(path / DOCUMENTS), firings)


def measure(model, saes: Mapping[str, "SAE"], tokens, count: int) -> Sweep:
    """A sweep of loaded SAEs; see ``make_sweep``.

    ``tokens``: what ``helpers.text.load_tokens`` returns. As everywhere, the
    beginning-of-sequence token is left out.
    """
    from helpers.progress import track

    hook_points = {sae.hook_point for sae in saes.values()}
    if len(hook_points) != 1:
        raise InputError(
            "SAEs of one hook point can be measured together, not of "
            + (", ".join(sorted(hook_points)) or "none")
        )
    hook_point, rows = hook_points.pop(), _sample(tokens, count)
    inside = [_Inside(sae) for sae in saes.values()]
    mean = mean_activation(model, hook_point, tokens.train)
    treatments = [
        lambda x: x.new_zeros(()).expand_as(x),
        lambda x: mean.to(x).expand_as(x),
        *inside,
    ]
    parts = []
    with track("measuring", sum(len(ids) for *_, ids in rows)) as bar:
        for _, _, ids in rows:
            for part in ids.split(ROWS):
                parts.append(
                    _pass(model, hook_point, part, treatments, inside)
                )
                bar.update(len(part))
    parts = [np.concatenate(column) for column in zip(*parts, strict=True)]
    frame = _frame(list(saes), rows, *parts)
    frame["uniform"] = frame["predicted"] * np.log(model.cfg.d_vocab)
    counts = [one.firings for one in inside]
    return Sweep(frame, dict(zip(saes, counts, strict=True)))


class _Inside:
    """An SAE in the place of the activations, which keeps count."""

    def __init__(self, sae: "SAE"):
        self.sae, self.firings = sae, np.zeros(sae.d_sae)
        self.error = self.fired = None  # by token of the last pass

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        """x rebuilt: [tokens, d_in]."""
        f = self.sae.encode(x)
        rebuilt, fires = self.sae.decode(f, x), f > FIRES
        self.firings += fires.sum(0).double().cpu().numpy()
        self.error = (x - rebuilt).double().pow(2).sum(1).cpu().numpy()
        self.fired = fires.sum(1).cpu().numpy()
        return rebuilt


def _sample(tokens, count: int) -> list[tuple]:
    """Natural classes, as many documents of each.

    -> (class, groups [documents], ids [documents, context]) of each.
    """
    import torch

    names, rows = [n for n in tokens.held_out if is_natural(n)], []
    for name in names:
        whole = tokens.held_out[name]
        n = min(max(count // len(names), 1), len(whole))
        taken = np.arange(n) * len(whole) // n
        ids = torch.from_numpy(whole[taken].astype(np.int64))
        rows.append((name, held_out_groups(tokens, name)[taken], ids))
    return rows


def _pass(model, hook_point: str, ids, treatments, inside) -> tuple:
    """Sums by document of one pass, each with a row a document.

    -> losses [documents, clean, treatments and predicted], error and fired
    [documents, SAEs], square (of ||x||^2), total (of x) and tokens.
    """
    from helpers.activations import BOS, run

    losses = document_losses(model, hook_point, ids, [None, *treatments])
    text = ids != BOS
    x = run(model, ids, [hook_point])[hook_point].cpu()[text].double().numpy()
    member = np.zeros((len(ids), len(x)))  # document of each token
    member[text.nonzero()[:, 0].numpy(), np.arange(len(x))] = 1
    error = member @ np.stack([one.error for one in inside], axis=1)
    fired = member @ np.stack([one.fired for one in inside], axis=1)
    square = member @ np.square(x).sum(1)
    return losses, error, fired, square, member @ x, member.sum(1)


def _frame(names, rows, losses, error, fired, square, total, tokens):
    """``Sweep.documents`` from the sums of all passes."""
    mean = total.sum(0) / tokens.sum()
    spread = square - 2 * total @ mean + tokens * (mean @ mean)
    same = pd.DataFrame(
        [(name, i, of) for name, groups, _ in rows
         for i, of in enumerate(groups)],
        columns=["text_class", "document", "group"],
    ).assign(
        tokens=tokens.astype(int), predicted=losses[:, -1].astype(int),
        clean=losses[:, 0], zero=losses[:, 1], mean=losses[:, 2],
        spread=spread,
    )  # fmt: skip
    frames = [
        same.assign(
            name=name, sae=losses[:, 3 + at],
            error=error[:, at], fired=fired[:, at],
        )
        for at, name in enumerate(names)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)
