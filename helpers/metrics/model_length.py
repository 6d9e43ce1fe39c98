"""SAEs on language models that were trained for longer and shorter.

The models differ in how much they read and in nothing else, and their SAEs
in the model alone. Two things are compared: how well the activations can be
rebuilt (FVU, from a ``Sweep`` a model), and how well the best unit tells
known factors (skill, as in ``factors``), for latents and for the neurons.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.metrics.factors import encode_table
from helpers.metrics.intervals import bootstrap
from helpers.metrics.losses import MARGIN

if TYPE_CHECKING:
    from helpers.features import FeatureTable
    from helpers.metrics.frontier import Sweep

SKILLS = "skills.parquet"
READ = "train_tokens"  # what the models may differ in
LEVEL = [0.025, 0.975]


def model_lengths(model: Path, others: Sequence[Path]) -> dict[str, Path]:
    """The models that differ from one in how much they read, shortest first.

    ``others``: artifacts to choose from. Its untrained control comes first;
    what differs in anything else is left out. -> tokens read, in words ("0",
    "300,000"; "all" of a pretrained model), to artifact.
    """
    whole, found = _made(model), {}
    for path in others:
        made = _made(path)
        if made.get("control") == "untrained":
            found[0] = path
        elif READ in whole and made | {READ: whole[READ]} == whole:
            found[made[READ]] = path
    named = {f"{read:,}": found[read] for read in sorted(found)}
    return named | {f"{whole[READ]:,}" if READ in whole else "all": model}


def shorter(model: Path, shares: Sequence[float]) -> dict[str, dict]:
    """Recipes of models that read a share of what one read: name -> settings.

    As ``make_language_model`` takes them; none where ``model`` is a
    pretrained one, which nobody can train again here.
    """
    made = _made(model)
    return {
        f"{model.name}-{share:g}": made | {READ: int(share * made[READ])}
        for share in shares
        if READ in made
    }


def _made(path: Path) -> dict:
    return artifacts.read_manifest(artifacts.require(path))["parameters"]


def make_skills(
    profile: str,
    name: str,
    saes: Mapping[str, Sequence[Path]],
    corpora: Mapping[str, tuple[Path, Mapping[str, Path]]],
    *,
    documents: int = 300,
    min_sets: int = 6,
    resamples: int = 1000,
    seed: int = 0,
) -> Path:
    """The mean skill of the best units, model by model, and resamples of it.

    ``saes``: model -> its SAEs (artifacts); ``corpora``: name -> the corpus
    and, by model, the neurons' feature table on it, of which ``documents``
    documents are used. ``recovery.recover`` scores all models on the same
    halves, targets and resamples of the matched sets.
    """

    def make(folder: Path) -> None:
        from helpers.progress import track

        frames = []
        with track("factors", len(corpora)) as bar:
            for name, (corpus, tables) in corpora.items():
                bases = _bases(saes, tables, documents, seed)
                found = _skills(bases, corpus, min_sets, resamples, seed)
                frames.append(found.assign(corpus=name))
                bar.update()
        whole = pd.concat(frames, ignore_index=True)
        whole.to_parquet(folder / SKILLS)

    inputs = [path for some in saes.values() for path in some]
    for corpus, tables in corpora.values():
        inputs += [corpus, *tables.values()]
    return artifacts.produce(
        paths.quality(profile, name),
        make,
        parameters={
            "models": list(saes), "corpora": list(corpora),
            "documents": documents, "min_sets": min_sets,
            "resamples": resamples, "seed": seed,
        },
        inputs=inputs,
    )  # fmt: skip


def load_skills(path: Path) -> pd.DataFrame:
    """What ``make_skills`` found: a row a corpus, model, SAE and draw.

    Columns corpus, model, units ("features" or "neurons"), sae (0, 1, ...;
    of the neurons 0), draw (0: all matched sets as they are; from 1 on:
    resamples), skill (mean over the targets) and targets (how many).
    """
    return pd.read_parquet(artifacts.require(path) / SKILLS)


def _bases(saes, tables, documents: int, seed: int) -> dict:
    """(model, units, sae) -> the feature table, on the same documents."""
    from helpers.features import load_features
    from helpers.recovery import take
    from helpers.sae import load

    bases: dict[tuple, FeatureTable] = {}
    for model, paths_ in saes.items():
        whole = load_features(tables[model])
        order = np.random.default_rng(seed).permutation(len(whole.documents))
        neurons = take(whole, np.sort(order[:documents]))
        bases[model, "neurons", 0] = neurons
        for place, path in enumerate(paths_):
            sae = load(artifacts.require(path))
            bases[model, "features", place] = encode_table(neurons, sae)
    return bases


def _skills(bases, corpus: Path, min_sets, resamples, seed):
    """The rows of one corpus, see ``load_skills``."""
    from helpers import recovery
    from helpers.synthesis import load_corpus

    named = {" ".join(map(str, key)): key for key in bases}
    tables = dict(zip(named, bases.values(), strict=True))
    frame = load_corpus(corpus).iloc[next(iter(bases.values())).documents]
    study = recovery.recover(
        tables, frame, min_sets=min_sets, resamples=resamples, seed=seed
    )
    frames = []
    for name, part in study.scores.groupby("basis", sort=False):
        always = part["always"].to_numpy()
        f1 = np.vstack([part["f1"], study.drawn[name]])
        skill = ((f1 - always) / (1 - always)).mean(1)
        found = pd.DataFrame({"draw": np.arange(len(skill)), "skill": skill})
        found[["model", "units", "sae"]] = named[name]
        frames.append(found.assign(targets=len(part)))
    return pd.concat(frames, ignore_index=True)


def length_losses(
    sweeps: Mapping[str, "Sweep"], margin: float = MARGIN
) -> pd.DataFrame:
    """What each model loses, a row a model: means over its SAEs.

    ``sweeps``: model -> the ``Sweep`` of its SAEs. Columns clean and zero
    (nats a token), score_zero (NaN where it is refused, and then why), l0
    and live (latents that fire on the sample).
    """
    rows = {}
    for model, sweep in sweeps.items():
        table = sweep.table(margin)
        columns = ["clean", "zero", "score_zero", "l0", "live"]
        row = table[columns].mean(skipna=False).to_dict()
        rows[model] = row | {"why": table["why"].max()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("read")


def dimensions(table: "FeatureTable", tokens: int = 4096) -> float:
    """In how many directions the units of a table vary, effectively.

    The participation ratio of the eigenvalues of their covariance, (sum
    l)^2 / sum l^2: 1 if all lies on a line, d_sae if it varies alike in all
    directions. From that many tokens, evenly spread over the table.
    """
    count = min(tokens, table.n_tokens)
    rows = np.arange(count) * table.n_tokens // count
    values = table.matrix()[rows].toarray().astype(np.float64)
    covariance = np.atleast_2d(np.cov(values.T))
    return float(np.trace(covariance) ** 2 / np.square(covariance).sum())


def length_table(
    sweeps: Mapping[str, "Sweep"], skills: pd.DataFrame
) -> pd.DataFrame:
    """FVU and skill of each model, means over its SAEs: tidy.

    ``skills``: see ``load_skills``. Columns read (the model), measure
    ("fvu" or a corpus, for the skill there), units, value, low and high
    (95%, over groups of documents for fvu, over matched sets for skill).
    """
    rows = [
        (read, "fvu", "features", *_fvu([sweep], lambda fvu: fvu[..., 0]))
        for read, sweep in sweeps.items()
    ]
    for (corpus, units), part in _by(skills):
        for read in sweeps:
            found = _central(_draws(part, read))
            rows.append((read, corpus, units, *found))
    names = ["read", "measure", "units", "value", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def length_steps(
    sweeps: Mapping[str, "Sweep"], skills: pd.DataFrame
) -> pd.DataFrame:
    """What changes from each model to the next: tidy.

    Columns from, to, measure, units, change, low and high (95%), as in
    ``length_table``; the two models are taken on the same resamples.
    """
    names, rows = list(sweeps), []
    for pair in zip(names, names[1:], strict=False):
        both = [sweeps[name] for name in pair]
        found = _fvu(both, lambda fvu: fvu[..., 1] - fvu[..., 0])
        rows.append((*pair, "fvu", "features", *found))
        for (corpus, units), part in _by(skills):
            before, after = (_draws(part, name) for name in pair)
            rows.append((*pair, corpus, units, *_central(after - before)))
    columns = ["from", "to", "measure", "units", "change", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def length_verdict(steps: pd.DataFrame, measure: str, units: str) -> str:
    """What the steps of one measure come to, in words, by their intervals."""
    part = steps[(steps["measure"] == measure) & (steps["units"] == units)]
    counts = {"falls": part["high"] < 0, "rises": part["low"] > 0}
    said = [f"{word} at {n.sum()}" for word, n in counts.items() if n.any()]
    if not said:
        return "changes at no step by more than its interval"
    return f"{' and '.join(said)} of {len(part)} steps"


def _fvu(sweeps: Sequence["Sweep"], of) -> tuple:
    """A statistic of FVUs [..., sweeps], each the mean over its SAEs."""
    columns, groups = [], []
    for sweep in sweeps:
        by = sweep.documents.set_index("name")
        names = list(sweep.firings)
        errors = [by.loc[name, "error"].to_numpy() for name in names]
        columns += [np.mean(errors, axis=0), by.loc[names[0], "spread"]]
        groups.append(by.loc[names[0], "group"].tolist())
    if any(other != groups[0] for other in groups):
        raise InputError(
            "models are compared on the same documents; measure their SAEs "
            "on the same sample of the same text"
        )
    return bootstrap(
        np.stack(columns, axis=1),
        lambda s: of(s[..., ::2] / s[..., 1::2]),
        groups=groups[0],
    )


def _by(skills: pd.DataFrame):
    return skills.groupby(["corpus", "units"], sort=False)


def _draws(part: pd.DataFrame, model: str) -> np.ndarray:
    """Skill by draw, the mean over the SAEs of a model: [draws]."""
    rows = part[part["model"] == model]
    return rows.groupby("draw")["skill"].mean().to_numpy()


def _central(draws: np.ndarray) -> tuple[float, float, float]:
    """The estimate, which comes first, and the central 95% of the rest."""
    low, high = np.quantile(draws[1:], LEVEL)
    return float(draws[0]), float(low), float(high)

