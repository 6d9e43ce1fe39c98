"""Pretrained models and published SAEs as artifacts of a run.

The artifact of a model holds no weights but says which they are, so that
every stage that opens a language model opens it like one trained here.
"""

import json
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.language_model.models import HOOK_POINT
from helpers.pretrained.folders import CONFIG, absolute, content, find

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

    how = {"name": absolute(source),
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


def make_sae(
    profile: str, name: str, release: str, sae_id: str, model: Path,
    hook_point: str = "",
) -> Path:  # fmt: skip
    """A published SAE as ``saes/NAME``, checked against the artifact of the
    pretrained ``model`` it is for (InputError if it is for another, for one
    loaded otherwise, or for another place than ``hook_point``, if given).

    Its ``cfg.json`` names the model, as SAELens' own do.
    """
    from helpers.pretrained.models import load
    from helpers.pretrained.saes import load_sae
    from helpers.sae.interchange import CONFIG as CFG
    from helpers.sae.interchange import save

    def make(folder: Path) -> None:
        config = json.loads((model / CONFIG).read_text())
        if PRETRAINED not in config:
            raise InputError(
                f"{artifacts.show(model)} was trained here; the published "
                f"SAE {release}/{sae_id} is for a pretrained model"
            )
        found = load_sae(release, sae_id)
        found.check(load(**config[PRETRAINED]), hook_point)
        save(found.sae, folder)
        described = json.loads((folder / CFG).read_text())
        described["metadata"]["model_name"] = found.model_name
        artifacts.write_json(folder / CFG, described)

    return artifacts.produce(
        paths.sae(profile, name),
        make,
        parameters={"release": release, "sae_id": sae_id,
                    "hook_point": hook_point},
        inputs=[model],
    )
