"""Text with its activations, as HTML: highlighted tokens, feature cards.

Every element carries both a class (``.tok``, ``.feature-card``; the book's
style sheet may refine them) and an inline style, so that a card also looks
right in a plain Jupyter. Colours are translucent and text keeps the page's
own colour: light and dark pages both work. Colour is never alone: each
token has its value as a tooltip, strong ones are underlined. The output
holds no random identifiers: equal input gives equal bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from helpers.features import FeatureTable

HUE = "230, 159, 0"  # Okabe-Ito orange
BAR = "86, 180, 233"  # Okabe-Ito sky: clear on light and dark
DARKEST = 0.5  # opacity of the strongest; more hides text on dark pages
STRONG = 0.5  # share of the maximum from which a token is underlined

TEXT_STYLE = (
    "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.2em 0; "
    "line-height: 1.6"
)
CARD_STYLE = (
    "border: 1px solid rgba(128, 128, 128, 0.5); border-radius: 6px; "
    "padding: 0.5em 0.8em; margin: 0.6em 0; max-width: 100%"
)
SMALL = "font-size: 0.85em; opacity: 0.85"


class Html(str):
    """A piece of HTML that notebooks show as such."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<{len(self)} characters of HTML>"


@dataclass(frozen=True)
class Example:
    """A text, the character span of each token, and one value per token.

    ``offsets`` are (start, end) in characters, in order, as a fast
    tokenizer gives them; a byte-level piece that is only part of a
    character has that whole character as its span.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    activations: Sequence[float]

    @property
    def peak(self) -> float:
        """The largest activation, 0 for a text with no token."""
        return float(max(self.activations, default=0.0))

    @property
    def top_token(self) -> str:
        """The text of the span with the largest activation."""
        spans = merge_spans(self.offsets, self.activations)
        if not spans:
            return ""
        start, end, _ = max(spans, key=lambda span: span[2])
        return self.text[start:end]


def merge_spans(
    offsets: Sequence[tuple[int, int]], activations: Sequence[float]
) -> list[tuple[int, int, float]]:
    """Join the pieces of split characters: (start, end, activation).

    Pieces whose spans overlap are parts of one character; they become one
    span with the largest of their activations. Empty spans (special
    tokens) are dropped.
    """
    merged: list[tuple[int, int, float]] = []
    for (start, end), value in zip(offsets, activations, strict=True):
        if end <= start:
            continue
        if merged and start < merged[-1][1]:
            before, reach, largest = merged.pop()
            start, end = before, max(reach, end)
            value = max(largest, value)
        merged.append((int(start), int(end), float(value)))
    return merged


def highlight(
    text: str,
    offsets: Sequence[tuple[int, int]],
    activations: Sequence[float],
    *,
    maximum: float | None = None,
) -> Html:
    """A paragraph whose tokens are shaded by their activation.

    Opacity is the activation over ``maximum`` (default: the largest one in
    this text); inactive tokens are plain text. Characters outside every
    span (a tokenizer's trimmed spaces, what was cut off) stay plain.
    Right-to-left scripts run their own way (``dir="auto"``); line
    breaks and active spaces are shown as small signs.

    Raises ValueError if there is not one activation for each offset.
    """
    example = Example(text, offsets, activations)
    scale = example.peak if maximum is None else maximum
    parts, reached = [], 0
    for start, end, value in merge_spans(offsets, activations):
        parts.append(_plain(text[reached:start]))
        parts.append(_token(text[start:end], value, scale))
        reached = end
    parts.append(_plain(text[reached:]))
    body = "".join(parts)
    return Html(f'<p dir="auto" style="{TEXT_STYLE}">{body}</p>')


def _token(text: str, value: float, scale: float) -> str:
    if value <= 0 or scale <= 0:
        return _plain(text)
    share = min(value / scale, 1.0)
    style = f"background: rgba({HUE}, {DARKEST * share:.2f})"
    if share >= STRONG:
        style += "; border-bottom: 2px solid currentColor"
    shown = _plain(text) if text.strip(" ") else "␣" * len(text)
    return (
        f'<span class="tok" style="{style}" title="{value:.3g}">{shown}</span>'
    )


def _plain(text: str) -> str:
    """Escaped text in which line breaks and tabs can be seen."""
    shown = escape(text).replace("\t", "⇥\t")
    return shown.replace("\r\n", "\n").replace("\n", "↵\n")


def feature_card(
    feature: int | str,
    *,
    density: float,
    class_means: Mapping[str, float],
    examples: Sequence[Example],
    kind: str = "feature",
    note: str = "",
) -> Html:
    """A feature on one card: how rare, where strong, and on what.

    ``density`` is the share of tokens it fires on; ``class_means`` its
    activation per class (drawn as bars from zero, all on the scale of the
    largest); ``examples`` share one colour scale, so that a weak example
    looks weak. ``note`` is a line of plain text under the title.
    """
    top = max((example.peak for example in examples), default=0.0)
    texts = "".join(
        highlight(e.text, e.offsets, e.activations, maximum=top)
        for e in examples
    )
    line = f"fires on {_percent(density)} of tokens"
    if note:
        line += f" · {escape(note)}"
    return Html(
        f'<div class="feature-card" style="{CARD_STYLE}">'
        f"<div><strong>{escape(kind)} {escape(str(feature))}</strong> "
        f'<span style="{SMALL}">{line}</span></div>'
        f"{_bars(class_means)}{texts}</div>"
    )


def _percent(share: float) -> str:
    """Two significant digits, never 0 for what is not.

    >>> _percent(0.00123), _percent(0.5), _percent(0.0)
    ('0.12%', '50%', '0%')
    """
    return f"{float(f'{100 * share:.2g}'):g}%"


def _bars(means: Mapping[str, float]) -> str:
    """One row a class: name, bar, value."""
    scale = max((abs(value) for value in means.values()), default=0.0) or 1.0
    return "".join(
        '<div style="display: flex; align-items: center; gap: 0.5em; '
        f'{SMALL}"><span style="flex: 0 0 9em">{escape(str(name))}</span>'
        '<span style="flex: 1 1 6em"><span style="display: block; '
        f"height: 0.7em; width: {100 * abs(value) / scale:.1f}%; "
        f'background: rgba({BAR}, 0.9)"></span></span>'
        f'<span style="flex: 0 0 4em; text-align: right">{value:.3g}</span>'
        "</div>"
        for name, value in means.items()
    )


def stack(pieces: Sequence[str]) -> Html:
    """Several pieces of HTML below each other, as one output."""
    return Html("".join(pieces))


def top_examples(
    maxima: np.ndarray, feature: int, count: int, groups: np.ndarray
) -> list[int]:
    """Rows of the documents that a feature fires on most, strongest first.

    ``maxima`` [documents, d_sae]; at most one document of each matched set
    (``groups`` [documents]), so that the list is not one sentence in all
    its versions; documents without activation are left out.
    """
    chosen: list[int] = []
    seen = set()
    for row in np.argsort(-maxima[:, feature], kind="stable"):
        if maxima[row, feature] <= 0 or len(chosen) == count:
            break
        if groups[row] not in seen:
            seen.add(groups[row])
            chosen.append(int(row))
    return chosen


@dataclass(frozen=True)
class Reader:
    """Shows what the units of a feature table fire on.

    ``documents``: the corpus's frame in the order of the table's
    documents; ``maxima`` [documents, d_sae]: ``table.document_max()``;
    ``kind``: what a unit is called.
    """

    table: "FeatureTable"
    documents: "pd.DataFrame"
    maxima: np.ndarray
    kind: str = "feature"

    def example(self, document: int, unit: int) -> Example:
        """One document with a unit's activation on each of its tokens."""
        table = self.table
        start, end = table.offsets[document : document + 2]
        spans = zip(
            table.char_start[start:end].tolist(),
            table.char_end[start:end].tolist(),
            strict=True,
        )
        values = table.document(document, unit).tolist()
        return Example(self._texts[document], list(spans), values)

    def card(self, unit: int, count: int = 3, note: str = "") -> Html:
        """The unit's card with its ``count`` strongest documents."""
        groups = self.documents["group"].to_numpy()
        rows = top_examples(self.maxima, unit, count, groups)
        labels = self.documents["label"].to_numpy()
        column = self.maxima[:, unit]
        means = {
            name: float(column[labels == name].mean())
            for name in dict.fromkeys(labels.tolist())
        }
        return feature_card(
            unit,
            density=float(self._density[unit]),
            class_means=means,
            examples=[self.example(row, unit) for row in rows],
            kind=self.kind,
            note=note,
        )

    def cards(self, rows: "pd.DataFrame", count: int = 3) -> Html:
        """A card for each row of a comparison table, in its order."""
        return stack(
            [
                self.card(
                    int(row["feature"]),
                    count,
                    f"{row['contrast']}: deflection "
                    f"{row['deflection']:+.2f}, AUROC {row['auroc']:.2f}",
                )
                for _, row in rows.iterrows()
            ]
        )

    @cached_property
    def top_tokens(self) -> dict[int, str]:
        """The text of the token on which each unit is strongest."""
        return {
            unit: self._token_text(token)
            for unit, token in enumerate(peak_tokens(self.table).tolist())
            if token >= 0
        }

    def _token_text(self, token: int) -> str:
        text = self._texts[self.table.document_of[token]]
        return text[self.table.char_start[token] : self.table.char_end[token]]

    @cached_property
    def _texts(self) -> list[str]:
        return self.documents["text"].tolist()

    @cached_property
    def _density(self) -> np.ndarray:
        return self.table.density()


def peak_tokens(table: "FeatureTable") -> np.ndarray:
    """The token with each unit's largest activation: [d_sae], -1 if none.

    Of equal ones the first in the corpus.
    """
    values = np.asarray(table.values)
    highest = np.zeros(table.d_sae, values.dtype)
    np.maximum.at(highest, table.indices, values)
    hits = np.flatnonzero(values == highest[table.indices])[::-1]
    peaks = np.full(table.d_sae, -1, np.int64)
    peaks[table.indices[hits]] = table.token_of[hits]
    return peaks
