"""The chapter on syntax: its minimal pairs, and what is asked of them.

Three kinds of material. Constructions of the same words (active and passive,
present and past); the corpus' sentences beside their sisters with a mistake
(the criterion of BLiMP, Warstadt et al. 2020); and subjects of both numbers
with the same nouns put between them and the verb (*attractors*; Linzen et al.
2016). Each verb is asked for after both numbers, so a model that always
prefers one form is right half of the time.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.compare.contrasts import Contrast
from helpers.errors import InputError

if TYPE_CHECKING:
    from helpers.features import FeatureTable

# Phenomenon -> what is compared: treatment, control.
CONTRASTS = {
    "voice": Contrast("passive", "active"),
    "tense": Contrast("past", "present"),
    "number agreement": Contrast("plural", "singular"),
    "negation": Contrast("negative", "affirmative"),
    "question": Contrast("question", "statement"),
}
AGREEMENT = (
    "number agreement",
    "agreement across a phrase",
    "agreement across a clause",
)
MISTAKE = Contrast("wrong number", "right number")
OTHER = "(other)"  # the label of documents outside a contrast
HEADS = ("agent", "object", "kin", "part_of")  # what a subject can be
BARE, PHRASE = "number agreement", "agreement across a phrase"
PIECES = "group phenomenon noun number head between verb rest".split()
NUMBERS = {"unmarked": "singular", "marked": "plural"}


def material(documents: pd.DataFrame, least: int) -> pd.DataFrame:
    """The documents of the contrasts, with what they show as their label.

    Of each phenomenon in CONTRASTS with at least ``least`` matched sets, the
    correct sentences; of agreement also those with a mistake. -> their rows
    with phenomenon and construction; ``label`` is the construction, or OTHER.

    Raises InputError where no phenomenon has so many sets.
    """
    from helpers.synthesis import factors

    facts = factors(documents)[["phenomenon", "construction"]]
    frame = documents.join(facts)
    sets = frame.groupby("phenomenon")["group"].nunique()
    wanted = [name for name in CONTRASTS if sets.get(name, 0) >= least]
    if not wanted:
        raise InputError(
            f"no phenomenon has {least} matched sets; the largest, "
            f"{sets.idxmax()!r}, has {sets.max()}"
        )
    correct = frame["label"].isin(NUMBERS)
    contrasted = frame["phenomenon"].isin(wanted) & correct
    kept = frame[contrasted | frame["phenomenon"].isin(AGREEMENT)]
    label = kept["construction"].where(contrasted[kept.index], OTHER)
    return kept.assign(label=label, correct=correct)


def contrasts(documents: pd.DataFrame) -> list[Contrast]:
    """The contrasts that ``material`` found enough sets for."""
    return [
        contrast
        for contrast in CONTRASTS.values()
        if (documents["label"] == contrast.treatment).any()
    ]


def by_mistake(documents: pd.DataFrame) -> pd.DataFrame:
    """``material`` relabelled: is the verb's number right or wrong?

    Both classes hold the same subjects and the same verbs, in equal numbers:
    no single word tells them apart, only whether subject and verb agree.
    """
    agreeing = documents["phenomenon"].isin(AGREEMENT)
    named = np.where(documents["correct"], MISTAKE.control, MISTAKE.treatment)
    return documents.assign(label=np.where(agreeing, named, OTHER))


def minimal_pairs(documents: pd.DataFrame, sets: int) -> pd.DataFrame:
    """Sentences of the syntax corpus beside their sisters with a mistake.

    At most the first ``sets`` matched sets of each phenomenon; phenomena with
    a single set are left out. -> a row a pair: group, phenomenon,
    construction, right and wrong (the sentence alone, without the text
    around it).
    """
    from helpers.synthesis import factors

    frame = _sentences(documents).join(
        factors(documents)[["phenomenon", "construction"]]
    )
    by = frame.groupby("phenomenon")["group"]
    order = by.transform(lambda groups: pd.factorize(groups)[0])
    frame = frame[(order < sets) & (by.transform("nunique") > 1)]
    wrong = frame["label"].str.startswith("ungrammatical ")
    keys = ["group", "phenomenon", "construction"]
    pairs = [
        part[[*keys, "text"]].rename(columns={"text": name})
        for name, part in (("right", frame[~wrong]), ("wrong", frame[wrong]))
    ]
    return pairs[0].merge(pairs[1], on=keys, validate="one_to_one")


def _sentences(documents: pd.DataFrame) -> pd.DataFrame:
    """group, label and the text of the construction alone."""
    from helpers.synthesis import spans

    told = spans(documents)
    told = told[told["factor"] == "construction"].set_index("document")
    texts = [
        text[start:end]
        for text, start, end in zip(
            documents["text"],
            told["start"].reindex(documents.index),
            told["end"].reindex(documents.index),
            strict=True,
        )
    ]
    return documents[["group", "label"]].assign(text=texts)


def attractors(
    documents: pd.DataFrame, sets: int, *, most: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Subjects with 0 to ``most`` nouns between them and their verb.

    Subjects and verbs are those of the matched sets of simple agreement and
    of agreement across a phrase (``sets`` of them at most, evenly spread);
    the phrases between ("to the fields") are drawn from the latter, the same
    ones for both numbers of a subject. -> a row a subject, number of nouns
    and kind: group, noun (of the subject), number, kind ("none", "same" or
    "opposite" number as the subject), nouns, before (the text up to the
    verb), right and wrong (whole sentences). Every combination is there.

    Raises InputError if there are no such sets.
    """
    parts = _parts(documents)
    phrases = parts[parts["phenomenon"] == PHRASE]
    phrases = phrases.pivot(index="group", columns="number", values="between")
    groups = parts["group"].unique()
    if not len(phrases):
        raise InputError(
            f"these documents have no matched set of {PHRASE!r}; give the "
            "corpus more sets"
        )
    few = min(sets, len(groups))
    groups = groups[np.arange(few) * len(groups) // few]
    rng, rows = np.random.default_rng(seed), []
    both = parts[parts["group"].isin(groups)].groupby("group", sort=False)
    for _, own in both:
        drawn = phrases.iloc[rng.choice(len(phrases), most)]
        rows += _combined(own.set_index("number").T, drawn)
    return pd.DataFrame(rows)


def _parts(documents: pd.DataFrame) -> pd.DataFrame:
    """The correct sentences of both phenomena, cut where it matters.

    group, phenomenon, noun, number (of the subject), and the pieces head,
    between (its noun phrase has the other number), verb and rest.
    """
    from helpers.synthesis import factors, spans

    facts = factors(documents)
    correct = facts["label"].isin(NUMBERS)
    kept = correct & facts["phenomenon"].isin((BARE, PHRASE))
    documents, facts = documents[kept], facts[kept]
    rows = []
    for index, told in spans(documents).groupby("document"):
        text, at = documents["text"][index], told.set_index("factor")
        start, end = at.loc["construction", ["start", "end"]]
        verb = at.loc["critical"]
        heads = told[told["factor"].isin(HEADS) & (told["start"] >= start)]
        head = heads.sort_values("start").iloc[0]
        rows.append(
            {
                "group": facts["group"][index],
                "phenomenon": facts["phenomenon"][index],
                "noun": head["value"],
                "number": NUMBERS[facts["label"][index]],
                "head": text[start : head["end"]],
                "between": text[head["end"] : verb["start"]].rstrip(),
                "verb": " " + text[verb["start"] : verb["end"]],
                "rest": text[verb["end"] : end],
            }
        )
    return pd.DataFrame(rows, columns=PIECES)


def _combined(own: pd.DataFrame, drawn: pd.DataFrame) -> list[dict]:
    """The rows of one matched set; ``own`` has a column a number."""
    rows = []
    kinds = [("none", 0)] + list(
        itertools.product(("same", "opposite"), range(1, len(drawn) + 1))
    )
    for (number, other), (kind, nouns) in itertools.product(
        (("singular", "plural"), ("plural", "singular")), kinds
    ):
        # A phrase stands under the number of the subject that it was written
        # for, and that is always the opposite of its own.
        column = number if kind == "opposite" else other
        before = own[number]["head"] + "".join(drawn[column].iloc[:nouns])
        rest = own[number]["rest"]
        rows.append(
            {
                "group": own[number]["group"],
                "noun": own[number]["noun"],
                "number": number,
                "kind": kind,
                "nouns": nouns,
                "before": before,
                "right": before + own[number]["verb"] + rest,
                "wrong": before + own[other]["verb"] + rest,
            }
        )
    return rows


def text_losses(predict, tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Loss of each text after BOS, in nats: [texts].

    ``predict``: a predictor (see ``language_model.evaluation``).
    """
    from helpers.language_model.evaluation import document_losses

    ids = [e.ids for e in tokenizer.encode_batch(list(texts))]
    lengths = np.array([1 + len(row) for row in ids])
    rows = np.zeros((len(ids), lengths.max()), np.int64)
    for row, piece in zip(rows, ids, strict=True):
        row[1 : 1 + len(piece)] = piece
    # Texts of one length together: nothing is computed for padding.
    order = np.argsort(lengths, kind="stable")
    losses = np.empty(len(ids))
    losses[order] = document_losses(predict, rows[order], lengths[order])
    return losses


def preferences(
    predictors: Mapping[str, object], tokenizer, pairs: pd.DataFrame
) -> pd.DataFrame:
    """What each model prefers: the rows of ``pairs`` once for each model.

    ``pairs`` has right and wrong (texts). Adds model and margin: by how many
    nats the right text is the likelier one.
    """
    texts = pd.unique(pairs[["right", "wrong"]].to_numpy().ravel())
    parts = []
    for name, predict in predictors.items():
        losses = pd.Series(text_losses(predict, tokenizer, texts), texts)
        margin = losses[pairs["wrong"]].to_numpy() - (
            losses[pairs["right"]].to_numpy()
        )
        parts.append(pairs.assign(model=name, margin=margin))
    return pd.concat(parts, ignore_index=True)


def accuracy(
    judged: pd.DataFrame, by: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Share of pairs in which the right text is preferred: a row a part.

    ``judged``: what ``preferences`` returns; ``by``: the columns that make
    the parts. A margin of 0 counts one half. -> ``by``, accuracy with low
    and high (95%, percentile bootstrap over matched sets; where all sets
    agree it has no width), margin (mean, nats), pairs and sets.
    """
    from helpers.metrics import bootstrap

    rows = []
    for key, part in judged.groupby(list(by), sort=False):
        won = (np.sign(part["margin"]) + 1) / 2
        sums = won.groupby(part["group"]).agg(["sum", "size"])
        found = bootstrap(
            sums.to_numpy(float), lambda s: s[..., 0] / s[..., 1],
            method="percentile", seed=seed,
        )  # fmt: skip
        named = dict(zip(by, key, strict=True))
        rows.append(
            named
            | dict(zip(("accuracy", "low", "high"), found, strict=True))
            | {"margin": part["margin"].mean(), "pairs": len(part)}
            | {"sets": len(sums)}
        )
    return pd.DataFrame(rows)


def follows(scores: pd.DataFrame, who: str) -> pd.Series:
    """What each of ``who`` goes by: the subject, the nearest noun, neither.

    ``scores``: ``who``, kind, low and high (intervals of an accuracy or an
    AUROC). Either takes that the number is told above chance with nothing
    between; then "the subject" is told above chance with any count of
    opposite nouns between, "the noun nearest to the verb" below it.
    """

    def phrase(part):
        bare = part[part["kind"] == "none"]
        opposite = part[part["kind"] == "opposite"]
        if (bare["low"] > 0.5).all() and (opposite["low"] > 0.5).all():
            return "the subject"
        if (bare["low"] > 0.5).all() and (opposite["high"] < 0.5).all():
            return "the noun nearest to the verb"
        return "neither"

    return pd.Series(
        {name: phrase(part) for name, part in scores.groupby(who, sort=False)}
    )


def at_last_token(table: "FeatureTable") -> np.ndarray:
    """Every unit's activation on the last token: [documents, units]."""
    return table.matrix()[np.asarray(table.offsets[1:]) - 1].toarray()


def probe(
    values: np.ndarray,
    number: np.ndarray,
    nouns: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    """A linear probe for the subject's number: its output, [rows, 1].

    Logistic regression on standardised ``values`` [rows, units], fitted to
    the rows ``chosen``; its L2 penalty is chosen there too, by five-fold
    cross-validation that keeps all rows of a noun together.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = GroupKFold(min(5, len(np.unique(nouns[chosen]))))
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": [1e-4, 1e-3, 1e-2, 0.1]},
        scoring="roc_auc",
        cv=folds,
    )
    model.fit(values[chosen], number[chosen], groups=nouns[chosen])
    return model.decision_function(values)[:, None]


def read_number(
    bases: Mapping[str, np.ndarray],
    stimuli: pd.DataFrame,
    probes: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Who reads the subject's number at the token before the verb?

    ``bases``: name -> activations [rows of ``stimuli``, units]. The unit
    with the AUROC farthest from 0.5 (plural above singular) is chosen on
    one half of the subject's *nouns*, over all kinds and numbers of nouns
    between, and scored on the other half, so that no word of a subject is
    in both. Of the bases named in ``probes``, a linear probe of all units is
    scored as well. -> basis, unit (-1: the probe), kind, nouns, auroc with
    low and high (95%, clustered by noun; ``compare.intervals``) and rows.
    """
    from sklearn.model_selection import GroupShuffleSplit

    plural = (stimuli["number"] == "plural").to_numpy()
    noun = stimuli["noun"].to_numpy(str)
    halves = GroupShuffleSplit(1, train_size=0.5, random_state=seed)
    choose, score = next(halves.split(noun, groups=noun))
    readers = {
        name: _best(values, plural, choose) for name, values in bases.items()
    }
    for name in probes:
        output = probe(bases[name], plural, noun, choose)
        readers[f"probe of all {name}"] = -1, output
    return pd.concat(
        [
            _read(output[score], stimuli.iloc[score]).assign(
                basis=name, unit=unit
            )
            for name, (unit, output) in readers.items()
        ],
        ignore_index=True,
    )


def _best(values, plural, rows) -> tuple[int, np.ndarray]:
    """The best unit of some rows, and its output (higher: plural)."""
    from helpers.compare import auroc

    areas = auroc(values[rows[plural[rows]]], values[rows[~plural[rows]]])
    unit = int(np.abs(areas - 0.5).argmax())
    sign = 1 if areas[unit] >= 0.5 else -1
    return unit, sign * values[:, [unit]]


def _read(output: np.ndarray, stimuli: pd.DataFrame) -> pd.DataFrame:
    """AUROC of one reader's output [rows, 1], a row a kind and count."""
    from helpers.compare.intervals import effects

    rows = []
    stimuli = stimuli.assign(row=np.arange(len(stimuli)))
    for (kind, nouns), part in stimuli.groupby(["kind", "nouns"], sort=False):
        plural = part["number"] == "plural"
        sides = part[plural], part[~plural]
        noun = np.concatenate([side["noun"] for side in sides]).astype(str)
        found = effects(*(output[side["row"]] for side in sides), noun)
        rows.append(
            {
                "kind": kind,
                "nouns": nouns,
                "auroc": found["auroc"][0],
                "low": found["auroc_low"][0],
                "high": found["auroc_high"][0],
                "rows": len(part),
            }
        )
    return pd.DataFrame(rows)
