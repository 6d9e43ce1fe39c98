"""Names of models: which are the same, and which is meant."""

import difflib
import functools
import importlib.util
from pathlib import Path

OURS = (  # what the profiles read
    "openai-community/gpt2",
    "distilbert/distilgpt2",
    "google/gemma-2b",
    "google/gemma-2-2b",
    "google/gemma-3-270m",
)


def base(name: str) -> str:
    """A model's own name, the same for all the ways to write it.

    Of a folder its last part; without the organisation; TransformerLens'
    aliases are resolved.

    >>> base("openai-community/gpt2"), base("gpt2-small"), base("/hub/gpt2/")
    ('gpt2', 'gpt2', 'gpt2')
    """
    short = Path(name).name.lower()
    for official, aliases in _table().MODEL_ALIASES.items():
        if short in (alias.lower() for alias in aliases):
            return official.split("/")[-1].lower()
    return short


def official(name: str) -> str:
    """The name on the hub of a model that a profile reads, whichever of its
    short names was given; any other name as it is.

    >>> official("gpt2-small"), official("me/gpt2")
    ('openai-community/gpt2', 'me/gpt2')
    """
    if "/" in name:
        return name
    known = {base(ours): ours for ours in OURS}
    return known.get(base(name), name)


def near(name: str) -> str:
    """A hint at the known model whose name is nearest, one that a profile
    reads if there is one near: ``; did you mean 'x'?``, or nothing."""
    short = name.split("/")[-1].lower()
    for names in (OURS, _table().OFFICIAL_MODEL_NAMES):
        known = {known.split("/")[-1].lower(): known for known in names}
        found = difflib.get_close_matches(short, known, n=1, cutoff=0.6)
        if found:
            return f"; did you mean {known[found[0]]!r}?"
    return ""


@functools.cache
def _table():
    """TransformerLens' list of models, without the seconds that importing
    all of TransformerLens takes."""
    package = importlib.util.find_spec("transformer_lens")
    file = Path(package.origin).with_name("supported_models.py")
    spec = importlib.util.spec_from_file_location("supported_models", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
