"""Where the language model of a run comes from: trained here, or elsewhere.

A run whose chapters are given a ``model`` takes that pretrained one for A.
Such a model has no second seed and no sister of another depth or with a
penalty, so cells tagged ``trained`` are left out of its chapters; cells
tagged ``pretrained``, which are prose alone, are left out of all others.
"""

import copy

from helpers.errors import InputError
from helpers.pretrained import folders

TRAINED, PRETRAINED = "trained", "pretrained"
CENTER = "center_writing_weights"


def model_of(values: dict[str, dict]) -> str:
    """The pretrained model that chapters are given, or nothing.

    ``values``: chapter -> parameters. Raises InputError if two chapters are
    given different ones: text would be cut by another model's tokenizer.
    """
    given = {n: v["model"] for n, v in values.items() if "model" in v}
    if len({*given.values()}) > 1:
        said = ", ".join(f"{n} {v or 'none'}" for n, v in given.items())
        raise InputError(
            f"all chapters must be given the same model, not {said}; say "
            "PARAMS=\"model=...\" without a chapter's name"
        )
    return next(iter(given.values()), "")


def bring(values: dict[str, dict]) -> str:
    """Have here the model that chapters are given, and a published SAE.

    A run begins with it, since the chapters that read them come late: the
    files are downloaded if need be, and the SAE must be one for this model,
    at the place where the chapters look, loaded as they load it. The model;
    nothing if there is none. Raises InputError for what cannot be had or
    does not belong together.
    """
    model = model_of(values)
    if not model:
        return ""
    try:
        folders.find(model)
    except InputError as error:
        raise InputError(
            f"{error} (the run's model is named by PARAMS=\"model=...\")"
        ) from None
    given = {k: v for each in values.values() for k, v in each.items()}
    if given.get("release"):
        from helpers.pretrained.saes import load_sae

        load_sae(given["release"], given["sae_id"]).check_names(
            model, given[CENTER], given["hook_point"]
        )
    return model


def suited(notebook, is_pretrained: bool):
    """A copy of a notebook without the cells that are not for this run.

    Those that stay lose the tag, which has done its work.
    """
    unwanted = TRAINED if is_pretrained else PRETRAINED
    copied = copy.deepcopy(notebook)
    copied.cells = [
        cell for cell in copied.cells
        if unwanted not in cell.metadata.get("tags", [])
    ]  # fmt: skip
    for cell in copied.cells:
        tags = cell.metadata.pop("tags", [])
        if kept := [t for t in tags if t not in (TRAINED, PRETRAINED)]:
            cell.metadata["tags"] = kept
    return copied
