"""Training, once language model and text are known to belong together.

The stage itself trains on any numbers of tokens. Text that was cut by
another tokenizer than the model's makes an SAE without an error, and
without a meaning; so this is asked first.
"""

import functools
import json
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.train import stage

CONFIG = "config.json"


@functools.wraps(stage.make_sae)
def make_sae(profile, name, model, tokens, *place, **how) -> Path:
    """``stage.make_sae``, InputError if the tokenizers differ."""
    check_tokens(model, tokens)
    return stage.make_sae(profile, name, model, tokens, *place, **how)


@functools.wraps(stage.make_saes)
def make_saes(profile, wanted, model, tokens, **how) -> dict[str, Path]:
    """``stage.make_saes``, InputError if the tokenizers differ."""
    check_tokens(model, tokens)
    return stage.make_saes(profile, wanted, model, tokens, **how)


def check_tokens(model: Path, tokens: Path) -> None:
    """Raise InputError unless text was cut by a pretrained model's tokenizer.

    Both are artifacts. A model that was trained here has the tokenizer of
    its run. What is not there is for the stage to tell.
    """
    from helpers.pretrained.vocabulary import check_tokenizer
    from helpers.text.tokenizer import load_tokenizer

    made, config = artifacts.read_manifest(tokens), model / CONFIG
    if made is None or not config.is_file():
        return
    if "tokenizer" not in json.loads(config.read_text()):
        return
    for name, digest in made["inputs"].items():
        path = paths.artifacts_root() / Path(name).relative_to("artifacts")
        if path.name != "tokenizer":
            continue
        if artifacts.digest(path) != digest:
            raise InputError(
                f"{artifacts.show(tokens)} was cut by another tokenizer than "
                f"the one that is now in {artifacts.show(path)}; run chapter "
                "02 again"
            )
        check_tokenizer(model, load_tokenizer(path))
