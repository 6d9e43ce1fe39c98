"""Pretrained language models and published SAEs, from a hub or a folder."""

from helpers.pretrained.folders import find
from helpers.pretrained.releases import locate, release_ids
from helpers.pretrained.vocabulary import make_tokenizer


def __getattr__(name: str):
    """What needs torch is imported when it is asked for."""
    import importlib

    where = {"Pretrained": "models", "load": "models",
             "PublishedSAE": "saes", "load_sae": "saes",
             "make_language_model": "stage", "make_sae": "stage"}  # fmt: skip
    if name not in where:
        raise AttributeError(name)
    module = importlib.import_module(f"helpers.pretrained.{where[name]}")
    return getattr(module, name)


__all__ = ["Pretrained", "PublishedSAE", "find", "load", "load_sae",
           "locate", "make_language_model", "make_sae", "make_tokenizer",
           "release_ids"]  # fmt: skip
