"""Who writes a corpus: the grammar, or a language model by its name."""

import os
from collections.abc import Sequence

import pandas as pd

from helpers import paths

GRAMMAR = "grammar"
TOKENS = 4000  # of a reply: eight languages with their spans need them
MODELS = ("gpt-4o-mini", "gpt-4.1-mini", "gpt-4.1")  # shown with their costs


def writer(
    corpus: str, name: str, *, budget: float = 1.0, prices: Sequence = ()
):
    """The ``writer`` that ``make_corpus`` takes: None for the grammar.

    Any other name is that of a model, asked at OPENAI_BASE_URL (by default
    OpenAI's) for every corpus that a model can write. ``budget`` is in USD,
    ``prices`` in USD per million tokens in and out (empty: looked up).
    """
    from helpers import chat
    from helpers.synthesis import written

    if name == GRAMMAR or corpus not in written.CORPORA:
        return None
    service = chat.Service(
        name, base_url=os.environ.get("OPENAI_BASE_URL") or None,
        max_tokens=TOKENS, budget=budget, prices=tuple(prices) or None,
    )
    return written.Written(corpus, service, paths.replies())


def estimates(groups: int, seed: int = 0) -> pd.DataFrame:
    """USD for ``groups`` sets of every corpus: expected and at most.

    A row per model, by the price list, each set asked for once. Before any
    reply is known, one is expected to take half of what it may.
    """
    from helpers import chat
    from helpers.synthesis import written

    asked = [
        request for corpus in written.CORPORA
        for request in written.first_round(corpus, groups, seed)
    ]
    costs = {}
    for model in MODELS:
        service = chat.Service(model, max_tokens=TOKENS)
        found = chat.estimate(service, asked, {})
        costs[model] = {"expected": found.expected, "at most": found.at_most}
    return pd.DataFrame(costs).T.rename_axis("model")
