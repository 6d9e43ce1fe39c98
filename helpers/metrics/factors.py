"""What an SAE's best latents say of known factors, for many SAEs.

Feature recovery (``helpers.recovery``) of chapter 10, for a few documents
of a corpus and any number of SAEs. The neurons' activations are in a feature
table already, so that no language model runs: each SAE reads that table.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.metrics.sparsity import FIRES

if TYPE_CHECKING:
    from helpers.features import FeatureTable
    from helpers.sae import SAE

TARGETS = "targets.parquet"
ROWS = 1024  # tokens encoded at a time
LEVEL = [0.025, 0.975]
FEWEST = 4  # SAEs that can be ranked
NAMES = {
    "score_zero": "score", "fvu": "minus FVU", None: "nothing", "l0": "L0"
}  # fmt: skip


def encode_table(
    neurons: "FeatureTable", sae: "SAE", threshold: float = FIRES
) -> "FeatureTable":
    """The feature table of an SAE from that of the neurons that it reads.

    The same as ``features.tabulate`` up to the rounding of the stored
    activations (16 bits, and nothing below their threshold). InputError
    where the SAE reads another number of neurons.
    """
    import torch

    if neurons.d_sae != sae.d_in:
        raise InputError(
            f"this SAE reads {sae.d_in} neurons and the table has "
            f"{neurons.d_sae}"
        )
    matrix, parts = neurons.matrix(), []
    device = sae.W_dec.device
    for start in range(0, neurons.n_tokens, ROWS):
        x = torch.from_numpy(matrix[start : start + ROWS].toarray())
        with torch.no_grad():
            f = sae.encode(x.to(device)).cpu().numpy()
        fires = f > threshold
        columns = np.nonzero(fires)[1].astype(np.int32)
        parts.append((f[fires].astype(np.float16), columns, fires.sum(1)))
    values, indices, counts = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    return dataclasses.replace(
        neurons,
        d_sae=sae.d_sae,
        threshold=threshold,
        values=values,
        indices=indices,
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def make_factors(
    profile: str,
    name: str,
    saes: Mapping[str, Path],
    corpora: Mapping[str, tuple[Path, Path]],
    *,
    documents: int = 300,
    min_sets: int = 6,
    seed: int = 0,
) -> Path:
    """Score each SAE's best latent for every factor of some corpora.

    ``saes``: what each is called -> its artifact; ``corpora``: name -> the
    artifacts of the corpus and of its neurons' feature table, of which
    ``documents`` are used. The neurons themselves are scored too, as
    "neurons". See ``recovery.recover`` for ``min_sets`` and how a latent is
    chosen on one half of the matched sets and scored on the other.
    """

    def make(folder: Path) -> None:
        from helpers import sae
        from helpers.progress import track

        loaded = {
            label: sae.load(artifacts.require(path))
            for label, path in saes.items()
        }
        frames = []
        with track("factors", len(corpora) * len(saes)) as bar:
            for corpus, table in corpora.values():
                tables = _tables(table, loaded, documents, seed, bar)
                frames.append(_scored(tables, corpus, min_sets, seed))
        pd.concat(frames, ignore_index=True).to_parquet(folder / TARGETS)

    inputs = [path for pair in corpora.values() for path in pair]
    return artifacts.produce(
        paths.quality(profile, name),
        make,
        parameters={
            "saes": list(saes), "corpora": list(corpora),
            "documents": documents, "min_sets": min_sets, "seed": seed,
        },
        inputs=[*saes.values(), *inputs],
    )  # fmt: skip


def load_factors(path: Path) -> pd.DataFrame:
    """What ``make_factors`` found: a row a target and SAE.

    Columns corpus, target, name (the SAE's), f1 of the best latent on the
    half that it was not chosen on, always (of one that always fires), skill
    = (f1 - always) / (1 - always), auroc.
    """
    return pd.read_parquet(artifacts.require(path) / TARGETS)


def _tables(path: Path, saes, documents: int, seed: int, bar) -> dict:
    """The tables of the neurons and of each SAE on the same documents."""
    from helpers.features import load_features
    from helpers.recovery import take

    whole = load_features(path)
    order = np.random.default_rng(seed).permutation(len(whole.documents))
    neurons = take(whole, np.sort(order[:documents]))
    tables = {"neurons": neurons}
    for name, sae in saes.items():
        tables[name] = encode_table(neurons, sae)
        bar.update()
    return tables


def _scored(tables, corpus: Path, min_sets: int, seed: int) -> pd.DataFrame:
    from helpers import recovery
    from helpers.synthesis import load_corpus

    frame = load_corpus(corpus).iloc[tables["neurons"].documents]
    study = recovery.recover(
        tables, frame, min_sets=min_sets, resamples=1, seed=seed
    )
    columns = ["corpus", "target", "basis", "f1", "always", "auroc"]
    part = study.scores[columns].rename(columns={"basis": "name"})
    skill = (part["f1"] - part["always"]) / (1 - part["always"])
    return part.assign(skill=skill)


class Rank(NamedTuple):
    """What ``rank_correlation`` gives."""

    rho: float
    low: float
    high: float
    count: int  # SAEs


def rank_correlation(
    x, y, given=None, *, resamples: int = 1000, seed: int = 0
) -> Rank:
    """Spearman's rank correlation over SAEs, with a bootstrap interval.

    ``x``, ``y`` [SAEs]; with ``given`` [SAEs] the partial one: of what is
    left of both ranks after a straight line in the ranks of ``given``.
    Percentile interval (95%), whole SAEs drawn; a sample in which either is
    constant is left out. SAEs of one language model are no random sample of
    anything: read it as how much hangs on which of them were made.
    InputError for fewer than four.
    """
    columns = [np.asarray(c, float) for c in (x, y, given) if c is not None]
    data = np.stack(columns, axis=1)
    if len(data) < FEWEST:
        raise InputError(
            f"{len(data)} SAEs are too few to rank; give four or more"
        )
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(data), (resamples, len(data)))
    low, high = np.nanquantile(_spearman(data[drawn]), LEVEL)
    rho = _spearman(data[None]).item()
    return Rank(rho, float(low), float(high), len(data))


def rank_table(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Whether score_zero and FVU go with skill: a row a group and measure.

    ``frame``: a row an SAE, with kind, l0, score_zero, fvu and skill. For
    all SAEs and for TopK alone, as they are and with L0 held fixed. FVU
    counts negatively, so that a positive rho means that better ones have
    more skill. Columns of ``Rank`` (NaN for fewer than four SAEs), and says:
    what that comes to.
    """
    rows = {}
    groups = {"all": frame, "TopK": frame[frame["kind"] == "TopK"]}
    for group, whole in groups.items():
        for measure, sign in {"score_zero": 1, "fvu": -1}.items():
            part = whole.dropna(subset=[measure, "skill"])
            for given in (None, "l0"):
                found = _rank(part, sign * part[measure], given, seed)
                row = found._asdict() | {"says": _says(found)}
                rows[group, NAMES[measure], NAMES[given]] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["SAEs", "measure", "held fixed"])


def _rank(part: pd.DataFrame, x, given: str | None, seed: int) -> Rank:
    if len(part) < FEWEST:
        return Rank(np.nan, np.nan, np.nan, len(part))
    fixed = None if given is None else part[given]
    return rank_correlation(x, part["skill"], fixed, seed=seed)


def _says(found: Rank) -> str:
    if found.low > 0:
        return "the better the score, the higher the skill"
    if found.high < 0:
        return "the better the score, the lower the skill"
    return "too few SAEs, or too small an effect, to tell"


def _spearman(data: np.ndarray) -> np.ndarray:
    """Of the first two columns, given the third where there is one.

    [samples, SAEs, columns] -> [samples]; NaN where a column is constant.
    """
    from scipy.stats import rankdata

    ranks = rankdata(data, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    first, second = ranks[..., 0], ranks[..., 1]
    if data.shape[2] == 3:
        first, second = (_left(r, ranks[..., 2]) for r in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    product = (first * second).sum(1)
    defined = lengths > 1e-9
    return np.where(defined, product / np.where(defined, lengths, 1), np.nan)


def _left(ranks: np.ndarray, given: np.ndarray) -> np.ndarray:
    """What a straight line in the ranks of ``given`` leaves, row by row."""
    square = np.maximum((given**2).sum(1, keepdims=True), 1e-9)
    return ranks - (ranks * given).sum(1, keepdims=True) / square * given
