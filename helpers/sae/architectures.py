"""The architectures by name, and one way to make any of them."""

import inspect

from helpers.errors import InputError, unknown
from helpers.sae.base import SAE
from helpers.sae.batchtopk import BatchTopKSAE, MatryoshkaSAE
from helpers.sae.gated import GatedSAE
from helpers.sae.jumprelu import JumpReLUSAE
from helpers.sae.standard import L1SAE
from helpers.sae.topk import TopKSAE

ARCHITECTURES = {
    kind.architecture: kind
    for kind in (
        TopKSAE,
        L1SAE,
        BatchTopKSAE,
        JumpReLUSAE,
        GatedSAE,
        MatryoshkaSAE,
    )
}
SHORT = {"l1": "standard", "matryoshka": "matryoshka_batchtopk"}


def build(
    architecture: str,
    d_in: int,
    hook_point: str,
    *,
    expansion: int,
    k: int,
    l1: float,
    seed: int,
    **more,
) -> SAE:
    """A new SAE with ``expansion * d_in`` latents.

    ``architecture``: SAELens' name, or "l1" for its "standard" and
    "matryoshka". ``k`` counts where latents are chosen by rank, ``l1`` (sum
    units) for "l1" and "gated"; ``more`` are the architecture's own options
    (JumpReLU: l0, target_l0, bandwidth, threshold; Matryoshka: widths).
    Raises InputError for an unknown name or option, or one out of range.
    """
    name = SHORT.get(architecture, architecture)
    if name not in ARCHITECTURES:
        names = [*ARCHITECTURES, *SHORT]
        raise unknown("SAE architecture", architecture, names)
    if d_in < 1 or expansion < 1:
        raise InputError(
            f"d_in and expansion must be 1 or more, not {d_in} and {expansion}"
        )
    kind = ARCHITECTURES[name]
    accepted = inspect.signature(kind).parameters
    given = {"k": k, "l1": l1, "seed": seed}
    common = {name: given[name] for name in given if name in accepted}
    own = set(accepted) - {"d_in", "d_sae", "hook_point", *given}
    for option in more:
        if option not in own:
            raise unknown(f"option of {architecture!r}", option, sorted(own))
    return kind(d_in, expansion * d_in, hook_point, **common, **more)
