"""Do a language model and a text belong together?

The stage trains on any numbers of tokens. Text that was cut by another
tokenizer than the model's makes an SAE without an error, and without a
meaning; so this is asked first.
"""

import json
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError

CONFIG, TOKENIZER = "config.json", "tokenizer"


def check_tokens(model: Path, tokens: Path) -> None:
    """Raise InputError unless text was cut by a pretrained model's tokenizer.

    Both are artifacts. A model that was trained here has the tokenizer of
    its run.
    """
    from helpers.pretrained.vocabulary import check_tokenizer
    from helpers.text.tokenizer import load_tokenizer

    config = json.loads((artifacts.require(model) / CONFIG).read_text())
    if TOKENIZER not in config:
        return
    made = artifacts.read_manifest(artifacts.require(tokens))
    for name, digest in made["inputs"].items():
        path = paths.artifacts_root() / Path(name).relative_to("artifacts")
        if path.name != TOKENIZER:
            continue
        if artifacts.digest(path) != digest:
            raise InputError(
                f"{artifacts.show(tokens)} was cut by another tokenizer than "
                f"the one that is now in {artifacts.show(path)}; run chapter "
                "02 again"
            )
        check_tokenizer(model, load_tokenizer(path))
