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


def bring(model: str) -> None:
    """Have the files of a model here, downloaded if need be.

    A run begins with it, since the chapters that read the model come late.
    Raises InputError where there is no such folder, or no hub has it.
    """
    try:
        folders.find(model)
    except InputError as error:
        raise InputError(
            f"{error} (the run's model is named by PARAMS=\"model=...\")"
        ) from None


def suited(notebook, is_pretrained: bool):
    """A copy of a notebook without the cells that are not for this run."""
    unwanted = TRAINED if is_pretrained else PRETRAINED
    copied = copy.deepcopy(notebook)
    copied.cells = [
        cell for cell in copied.cells
        if unwanted not in cell.metadata.get("tags", [])
    ]  # fmt: skip
    return copied
