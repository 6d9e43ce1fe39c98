"""Pretrained models, tokenizers and SAEs as artifacts of a run.

The artifact of a model holds no weights but says which they are, so that
every stage that opens a language model opens it like one trained here.
"""

import json
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.language_model.models import HOOK_POINT
from helpers.pretrained.folders import CONFIG, INDEX, find
from helpers.text.tokenizer import FILE

PRETRAINED = "pretrained"  # the key of config.json that tells


def make_language_model(
    profile: str,
    source: str,
    name: str = "A",
    *,
    center_writing_weights: bool = False,
    context: int = 128,
    hook_point: str = HOOK_POINT,
) -> Path:
    """A pretrained model as ``language_models/NAME``.

    ``source`` is its name on the hub or the path of its folder;
    ``hook_point`` is where the chapters look (InputError if there is no
    such one); the rest is as for ``pretrained.load``, which reads the model
    once here, to see that it can.
    """
    from helpers.pretrained.models import load

    how = {"name": _absolute(source),
           "center_writing_weights": center_writing_weights,
           "context": context}  # fmt: skip

    def make(folder: Path) -> None:
        found = load(**how)
        found.check_hook_point(hook_point)
        described = {PRETRAINED: how, "hook_point": hook_point,
                     "tokenizer": found.vocabulary.digest,
                     "vocab_size": found.vocabulary.size}  # fmt: skip
        artifacts.write_json(folder / CONFIG, described)

    return artifacts.produce(
        paths.language_model(profile, name),
        make,
        parameters={**how, "hook_point": hook_point,
                    "files": content(find(source))},
    )


def make_tokenizer(profile: str, source: str) -> Path:
    """The tokenizer of a pretrained model, its token 0 <|endoftext|>."""
    from helpers.pretrained.vocabulary import load_vocabulary

    folder = find(source)
    texts = [f for f in content(folder) if not f[0].endswith(".safetensors")]

    def make(target: Path) -> None:
        load_vocabulary(folder).tokenizer.save(str(target / FILE))

    return artifacts.produce(
        paths.tokenizer(profile),
        make,
        parameters={"source": _absolute(source), "files": texts},
    )


def make_sae(profile: str, name: str, release: str, sae_id: str,
             model: Path) -> Path:  # fmt: skip
    """A published SAE as ``saes/NAME``, checked against the artifact of the
    pretrained ``model`` it is for (InputError if it is for another)."""
    from helpers.pretrained.models import load
    from helpers.pretrained.saes import load_sae
    from helpers.sae.interchange import save

    def make(folder: Path) -> None:
        config = json.loads((model / CONFIG).read_text())
        if PRETRAINED not in config:
            raise InputError(
                f"{artifacts.show(model)} was trained here; the published "
                f"SAE {release}/{sae_id} is for a pretrained model"
            )
        found = load_sae(release, sae_id)
        found.check(load(**config[PRETRAINED]))
        save(found.sae, folder)

    return artifacts.produce(
        paths.sae(profile, name),
        make,
        parameters={"release": release, "sae_id": sae_id},
        inputs=[model],
    )


def content(folder: Path) -> list[list]:
    """[name, hash] of the files of a model that decide its numbers.

    In the cache a file is named after its hash; elsewhere it is read.
    """
    names = [CONFIG, INDEX, "tokenizer.json", "tokenizer.model",
             "tokenizer_config.json", "vocab.json", "merges.txt"]  # fmt: skip
    files = [folder / name for name in names if (folder / name).is_file()]
    files += sorted(folder.glob("model*.safetensors"))
    return [[file.name, _hash(file)] for file in files]


def _hash(file: Path) -> str:
    if file.is_symlink() and file.resolve().parent.name == "blobs":
        return file.resolve().name
    return artifacts.file_hash(file)


def _absolute(source: str) -> str:
    """A path from the root on, wherever the notebook runs; else a name."""
    from helpers.pretrained.folders import local_folder

    found = local_folder(source)
    return source if found is None else str(found.resolve())
