"""What is compared with what: contrasts, classes and matched sets."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.compare.effects import chunks
from helpers.errors import InputError, unknown


@dataclass(frozen=True)
class Contrast:
    """A class of documents and the class it is held against."""

    treatment: str
    control: str

    @property
    def name(self) -> str:
        """As figures and tables print it."""
        return f"{self.treatment} vs {self.control}"


def against(documents: pd.DataFrame, control: str) -> list[Contrast]:
    """Each class of a corpus against one control, in order of appearance.

    Raises InputError if no document carries the control's label.
    """
    labels = list(dict.fromkeys(documents["label"]))
    if control not in labels:
        raise unknown("label", control, labels)
    return [Contrast(name, control) for name in labels if name != control]


def pairs(labels: Iterable[str]) -> list[Contrast]:
    """Every two classes once, the earlier one as treatment."""
    labels = list(labels)
    return [
        Contrast(first, second)
        for position, first in enumerate(labels)
        for second in labels[position + 1 :]
    ]


def class_means(maxima: np.ndarray, labels: Sequence[str]) -> pd.DataFrame:
    """Each class's activation by the poster's definition.

    ``maxima`` [documents, d_sae] -> frame [classes, d_sae], rows named by
    label, in order of appearance.
    """
    labels = np.asarray(labels)
    same_length(maxima, labels)
    names = list(dict.fromkeys(labels.tolist()))
    means = [maxima[labels == name].mean(0, np.float64) for name in names]
    return pd.DataFrame(np.stack(means), index=names)


def live_features(
    maxima: np.ndarray, threshold: float, min_documents: int
) -> np.ndarray:
    """Which features fire: bool [d_sae].

    A feature *fires* on a document when its maximum over tokens exceeds
    ``threshold``; it is *live* when it fires on ``min_documents`` or more.
    """
    return (maxima > threshold).sum(0) >= min_documents


def live_in(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    threshold: float,
    min_documents: int,
) -> np.ndarray:
    """The features that are live in a contrast's documents: their numbers.

    Raises InputError if there is none, or for a label without documents.
    """
    same_length(maxima, documents)
    rows = np.concatenate(class_rows(documents, contrast))
    live = np.concatenate(
        [
            live_features(maxima[rows, c], threshold, min_documents)
            for c in chunks(maxima.shape[1])
        ]
    )
    if not live.any():
        raise InputError(
            f"no feature fires above {threshold} on {min_documents} "
            f"documents of {contrast.name}; lower one of the two"
        )
    return np.flatnonzero(live)


def class_rows(documents: pd.DataFrame, contrast: Contrast) -> list[np.ndarray]:
    """Row numbers of the treatment's and of the control's documents."""
    labels = documents["label"].to_numpy()
    for name in (contrast.treatment, contrast.control):
        if name not in labels:
            raise unknown("label", name, dict.fromkeys(labels))
    return [
        np.flatnonzero(labels == name)
        for name in (contrast.treatment, contrast.control)
    ]


def set_means(
    values: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each set's rows: names [sets], means [sets, d_sae]."""
    order = np.argsort(groups, kind="stable")
    names, starts, counts = np.unique(
        groups[order], return_index=True, return_counts=True
    )
    if len(names) == len(groups):  # one document a set: nothing to add up
        return names, values[order]
    sums = np.add.reduceat(values[order], starts, axis=0)
    return names, sums / counts[:, None].astype(values.dtype)


def same_length(maxima, documents) -> None:
    """Raise InputError unless both have one row per document."""
    if len(maxima) != len(documents):
        raise InputError(
            f"the feature table has {len(maxima)} documents and the corpus "
            f"{len(documents)}; use the frame the table was made from"
        )
